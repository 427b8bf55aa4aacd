//! What could not become an event, and why: the closed list of reasons, and a value that carries the bytes. Nothing is
//! dropped without one. It does not know where dead letters go. Made by readers and workers, disposed of by the producer.

/// Why. A closed list: it is a metric label and a header of the dead-letter topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Not a frame: empty, not DAG-CBOR, cut off, trailing bytes, fields missing.
    BadFrame,
    /// A websocket text message where binary ones are due.
    TextFrame,
    /// No seq, or one outside 1..2^53.
    BadSeq,
    /// An op without the form of one: unknown action, a path without `/`, a create without a CID.
    BadOp,
    /// The CAR cannot be read as far as the op's block.
    BadCar,
    /// The CAR has no block for the op's CID.
    MissingBlock,
    /// The block does not hash to the op's CID.
    CidMismatch,
    /// The block is not DAG-CBOR, or not of the atproto data model.
    BadRecord,
    /// A float in a record.
    Float,
    /// Larger than the topic takes.
    TooLarge,
    /// The broker refuses it for good: invalid to this topic (such as no key where it compacts).
    Refused,
    /// The message is over the limit for one; it was not read.
    OverLimit,
    /// A bug: the program panicked on it.
    Panic,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Reason; 13] = [
        Reason::BadFrame,
        Reason::TextFrame,
        Reason::BadSeq,
        Reason::BadOp,
        Reason::BadCar,
        Reason::MissingBlock,
        Reason::CidMismatch,
        Reason::BadRecord,
        Reason::Float,
        Reason::TooLarge,
        Reason::Refused,
        Reason::OverLimit,
        Reason::Panic,
    ];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Reason::BadFrame => "bad_frame",
            Reason::TextFrame => "text_frame",
            Reason::BadSeq => "bad_seq",
            Reason::BadOp => "bad_op",
            Reason::BadCar => "bad_car",
            Reason::MissingBlock => "missing_block",
            Reason::CidMismatch => "cid_mismatch",
            Reason::BadRecord => "bad_record",
            Reason::Float => "float",
            Reason::TooLarge => "too_large",
            Reason::Refused => "refused",
            Reason::OverLimit => "over_limit",
            Reason::Panic => "panic",
        }
    }
}

impl Reason {
    /// Whether nothing of the frame could be read: neither what it is nor whose.
    pub fn is_of_a_whole_frame(self) -> bool {
        matches!(self, Reason::BadFrame | Reason::TextFrame | Reason::BadSeq | Reason::Panic)
    }
}

/// One of them, with the bytes that it is about.
#[derive(Debug)]
pub struct DeadLetter {
    /// Why it could not become an event.
    pub reason: Reason,
    /// One line for people: which op, what is wrong.
    pub detail: String,
    /// 0 where the frame has none.
    pub seq: u64,
    /// The whole frame as received (for [`Reason::TooLarge`] and [`Reason::Refused`] the record's value).
    pub bytes: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn the_list_is_in_the_order_of_the_enum() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i, "counters are indexed by it");
        }
    }
}
