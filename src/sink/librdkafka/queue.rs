//! The queue in which librdkafka leaves what callbacks are to hear, and which thread it wakes for that.
//!
//! Mostly the thread `delivery` serves it, beside the producer's. With few records in flight what costs is that threads
//! wake one another, so the producer's thread serves it: it sleeps for about as long as an acknowledgement takes, and is
//! woken only for one that takes longer. The producer's thread decides which, each time before it sleeps. With many, it is
//! held for a moment, so that more records come together.

use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use rdkafka::bindings::{
    rd_kafka_queue_cb_event_enable, rd_kafka_queue_destroy, rd_kafka_queue_get_main, rd_kafka_queue_length,
    rd_kafka_queue_t, rd_kafka_t,
};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

/// librdkafka sends a request for each partition, and each answer comes by itself. So long after the first one the others
/// are mostly there, and the threads behind wake once for all of them.
pub(super) const SETTLE: Duration = Duration::from_millis(1);
/// So long after it sent a few records, the producer's thread takes what was acknowledged: the time of a broker near by,
/// and [`SETTLE`].
pub(super) const NAP: Duration = Duration::from_micros(2500);
/// So long after it sent some, the producer's thread sends again, with many in flight. What comes meanwhile fills the batches
/// of librdkafka, which does not wait for more by itself: larger ones cost it and the broker less.
const GATHER: Duration = Duration::from_millis(4);
/// Records in flight that are few.
const FEW: usize = 64;

/// How long the producer's thread pauses before it sends more, with so many records in flight. `since`: the time since it
/// last sent some.
pub(super) fn hold(in_flight: usize, since: Duration) -> Duration {
    if in_flight > FEW { GATHER.saturating_sub(since) } else { Duration::ZERO }
}

/// Who serves the queue, and is woken for it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Wakes {
    /// The thread `delivery`.
    Delivery,
    /// The thread that takes what was delivered, the producer's.
    Taker,
    /// The same, but it is not woken: it looks by itself at the end of [`NAP`].
    Nobody,
}

/// One client's queue.
///
/// The client's own call that waits cannot be told to come back with the first of many, and spins for its last millisecond.
pub(super) struct Queue {
    native: *mut rd_kafka_queue_t,
    /// librdkafka's threads hold its address.
    bell: Box<Bell>,
}

/// What librdkafka's threads know.
struct Bell {
    /// One of [`Wakes`].
    wakes: AtomicU8,
    delivery: OnceLock<Thread>,
    taker: Thread,
}

impl Bell {
    fn wake_delivery(&self) {
        // Before it waits for the first time, it looks by itself.
        if let Some(thread) = self.delivery.get() {
            thread.unpark();
        }
    }
}

// SAFETY: librdkafka's queues may be used from any thread; what is in the bell is `Sync`.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// Of a client. This thread takes what was delivered.
    pub(super) fn of<C: ProducerContext>(producer: &BaseProducer<C>) -> Queue {
        let wakes = AtomicU8::new(Wakes::Delivery as u8);
        let bell = Box::new(Bell { wakes, delivery: OnceLock::new(), taker: thread::current() });
        let address: *const Bell = &*bell;
        // SAFETY: the client lives. The queue is ours until `drop`, which takes the callback away before the bell goes;
        // librdkafka holds the queue's lock while it calls, so that no call is left then.
        let native = unsafe {
            let native = rd_kafka_queue_get_main(producer.client().native_ptr());
            rd_kafka_queue_cb_event_enable(native, Some(ring), address.cast_mut().cast());
            native
        };
        Queue { native, bell }
    }

    /// Waits on the thread `delivery` until something is in it, or `longest` is over. It may come back early.
    pub(super) fn wait(&self, longest: Duration) {
        self.bell.delivery.get_or_init(thread::current);
        if self.is_empty() || !self.is(Wakes::Delivery) {
            thread::park_timeout(longest);
        }
    }

    /// Before the taker sleeps, with so many records in flight: it serves the queue where they are few. `rest` is what is left
    /// of the [`NAP`] for them. `Some`: nobody wakes it for what comes meanwhile, and it is to sleep no longer than this.
    pub(super) fn nap(&self, in_flight: usize, rest: Duration) -> Option<Duration> {
        match in_flight {
            1..=FEW if !rest.is_zero() => {
                self.set(Wakes::Nobody);
                Some(rest)
            }
            1..=FEW => {
                self.set(Wakes::Taker);
                // What came just before that rang for nobody.
                (!self.is_empty()).then_some(Duration::ZERO)
            }
            _ => {
                self.to_delivery();
                None
            }
        }
    }

    /// The thread `delivery` serves it from now on.
    pub(super) fn to_delivery(&self) {
        if !self.is(Wakes::Delivery) {
            self.set(Wakes::Delivery);
            // What is in it rang for somebody else.
            if !self.is_empty() {
                self.bell.wake_delivery();
            }
        }
    }

    /// Something was delivered.
    pub(super) fn wake_taker(&self) {
        self.bell.taker.unpark();
    }

    /// Runs the callbacks of what waits for one, where the taker serves it.
    pub(super) fn serve_few<C: ProducerContext>(&self, producer: &BaseProducer<C>) {
        if !self.is(Wakes::Delivery) {
            self.serve(producer);
        }
    }

    /// Runs the callbacks of all that waits for one now. `false`: nothing did.
    pub(super) fn serve<C: ProducerContext>(&self, producer: &BaseProducer<C>) -> bool {
        let waiting = self.len();
        for _ in 0..waiting {
            producer.poll(Duration::ZERO);
        }
        waiting > 0
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        // SAFETY: the queue is ours.
        unsafe { rd_kafka_queue_length(self.native) }
    }

    fn is(&self, wakes: Wakes) -> bool {
        self.bell.wakes.load(Ordering::SeqCst) == wakes as u8
    }

    fn set(&self, wakes: Wakes) {
        self.bell.wakes.store(wakes as u8, Ordering::SeqCst);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours, and not used after.
        unsafe {
            rd_kafka_queue_cb_event_enable(self.native, None, std::ptr::null_mut());
            rd_kafka_queue_destroy(self.native);
        }
    }
}

/// The queue is not empty any more. On one of librdkafka's threads, which holds the queue's lock.
unsafe extern "C" fn ring(_client: *mut rd_kafka_t, bell: *mut c_void) {
    // SAFETY: it is the address that was given with this function, and what is there lives as long as this is called.
    let bell = unsafe { &*bell.cast::<Bell>() };
    if bell.wakes.load(Ordering::SeqCst) == Wakes::Delivery as u8 {
        bell.wake_delivery();
        return;
    }
    // Mostly it is the thread of a broker that has read the first of some answers, each of which would wake it: so it reads
    // them together. librdkafka does not want a callback to take long, since the queue is locked meanwhile. For a
    // millisecond, with few records in flight, that holds up nobody for long.
    thread::sleep(SETTLE);
    // Where the queue went to the thread `delivery` meanwhile, that one was woken for it.
    if bell.wakes.load(Ordering::SeqCst) != Wakes::Nobody as u8 {
        bell.taker.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::config::ClientConfig;

    use super::*;

    /// Longer than any of these waits may take.
    const LONG: Duration = Duration::from_secs(60);

    /// A client that knows no broker, and tells its figures each 20 ms: they come into its queue. The queue goes first.
    fn client() -> (BaseProducer, Queue) {
        let mut config = ClientConfig::new();
        config.set("statistics.interval.ms", "20");
        let producer: BaseProducer = config.create().expect("a client");
        let queue = Queue::of(&producer);
        (producer, queue)
    }

    /// Waits until nobody has to be woken for what came before, and then to be woken.
    fn woken(queue: &Queue, producer: &BaseProducer, in_flight: usize) {
        while queue.nap(in_flight, Duration::ZERO).is_some() {
            queue.serve_few(producer);
        }
        let began = Instant::now();
        while queue.is_empty() {
            thread::park_timeout(LONG);
            assert!(began.elapsed() < LONG, "nobody woke this thread");
        }
    }

    fn until_something_is_in(queue: &Queue) {
        let began = Instant::now();
        while queue.is_empty() {
            assert!(began.elapsed() < LONG, "nothing came");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn with_many_records_in_flight_more_are_gathered() {
        let ms = Duration::from_millis;
        assert_eq!((hold(0, ms(0)), hold(FEW, ms(0))), (ms(0), ms(0)), "an ordinary day waits for nothing");
        assert_eq!((hold(FEW + 1, ms(0)), hold(FEW + 1, ms(1))), (GATHER, GATHER - ms(1)));
        assert_eq!(hold(FEW + 1, ms(9)), ms(0));
    }

    #[test]
    fn with_few_records_in_flight_the_taker_sleeps_and_looks_and_is_then_woken() {
        let (producer, queue) = client();
        assert_eq!(queue.nap(3, NAP), Some(NAP));
        until_something_is_in(&queue);
        // It rang for nobody, so the taker may not sleep on it.
        assert_eq!(queue.nap(3, Duration::ZERO), Some(Duration::ZERO));
        for _ in 0..3 {
            woken(&queue, &producer, 3);
        }
    }

    #[test]
    fn with_many_and_with_none_the_thread_delivery_serves_even_what_came_before() {
        for in_flight in [0, FEW + 1] {
            let (producer, queue) = client();
            assert_eq!(queue.nap(1, NAP), Some(NAP));
            until_something_is_in(&queue);
            assert_eq!(queue.nap(in_flight, NAP), None);
            queue.serve_few(&producer);
            assert!(!queue.is_empty(), "it is not the taker's any more");
            thread::scope(|scope| {
                scope.spawn(|| serve_three(&queue, &producer));
            });
        }
    }

    #[test]
    fn the_thread_delivery_is_woken_for_what_rang_for_others() {
        let (producer, queue) = client();
        assert_eq!(queue.nap(1, NAP), Some(NAP));
        thread::scope(|scope| {
            scope.spawn(|| serve_three(&queue, &producer));
            // It has begun, and sleeps, since it is not its matter yet.
            while queue.bell.delivery.get().is_none() {
                thread::yield_now();
            }
            until_something_is_in(&queue);
            assert_eq!(queue.nap(FEW + 1, NAP), None);
        });
    }

    /// The thread `delivery`, until it was woken and had something to serve three times.
    fn serve_three(queue: &Queue, producer: &BaseProducer) {
        let mut served = 0;
        while served < 3 {
            let began = Instant::now();
            queue.wait(LONG);
            assert!(began.elapsed() < LONG, "nobody woke this thread");
            served += usize::from(queue.serve(producer));
        }
    }
}
