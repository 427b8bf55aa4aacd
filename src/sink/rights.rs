//! What this client may do with a topic, by DescribeTopics with `include_authorized_operations` (KIP-430). The rdkafka crate
//! has no interface for it, so this calls librdkafka.
//!
//! It keeps nothing and blocks until the answer is there or the time is over.

use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::bindings::*;
use rdkafka::client::{Client, ClientContext};
use rdkafka::types::RDKafkaRespErr;

/// An operation on a topic that this client may do. Others are of no concern here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To send records.
    Write,
    /// To receive records.
    Read,
    /// To see that it is there.
    Describe,
    /// To read its settings.
    DescribeConfigs,
}

/// Something of librdkafka's that is destroyed at the end.
struct Owned<T>(NonNull<T>, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Owned<T>, String> {
        NonNull::new(pointer).map(|pointer| Owned(pointer, destroy)).ok_or_else(|| "librdkafka has no answer".into())
    }

    fn get(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made by librdkafka's constructor that belongs to this destructor, and destroyed only here.
        unsafe { self.1(self.0.as_ptr()) }
    }
}

/// Fails with why the rights are not known: no answer in `patience`, an error, or a broker that does not say them.
pub fn on_topic(client: &Client<impl ClientContext>, topic: &str, patience: Duration) -> Result<Vec<Right>, String> {
    let name = CString::new(topic).map_err(|e| e.to_string())?;
    let millis = patience.as_millis().min(60_000) as i32;
    let rk = client.native_ptr();
    // SAFETY: `rk` lives as long as `client`, which outlives this call. Everything that is made here is destroyed at its end,
    // in the reverse order: the event before the queue that it came from. What the event holds is only read before that, and
    // the lengths are those that librdkafka gave with the lists. `name` outlives the collection, which copies it anyway.
    unsafe {
        let queue = Owned::new(rd_kafka_queue_new(rk), rd_kafka_queue_destroy)?;
        let kind = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = Owned::new(rd_kafka_AdminOptions_new(rk, kind), rd_kafka_AdminOptions_destroy)?;
        let mut said = [0; 256];
        if rd_kafka_AdminOptions_set_request_timeout(options.get(), millis, said.as_mut_ptr(), said.len())
            != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return Err("librdkafka refuses the time limit".into());
        }
        let error = rd_kafka_AdminOptions_set_include_authorized_operations(options.get(), 1);
        if let Some(error) = NonNull::new(error) {
            rd_kafka_error_destroy(error.as_ptr());
            return Err("librdkafka does not ask for rights".into());
        }
        let mut names = [name.as_ptr()];
        let topics = Owned::new(
            rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1),
            rd_kafka_TopicCollection_destroy,
        )?;
        rd_kafka_DescribeTopics(rk, topics.get(), options.get(), queue.get());
        // A second more: librdkafka's own limit gives the better error.
        let event = rd_kafka_queue_poll(queue.get(), millis + 1_000);
        let event = Owned::new(event, rd_kafka_event_destroy).map_err(|_| "no answer in time".to_string())?;
        if rd_kafka_event_error(event.get()) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(words(rd_kafka_event_error_string(event.get())));
        }
        let result = rd_kafka_event_DescribeTopics_result(event.get());
        if result.is_null() {
            return Err("another answer than was asked for".into());
        }
        let mut count = 0;
        let list = rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if list.is_null() || count == 0 {
            return Err("the answer does not name the topic".into());
        }
        let error = rd_kafka_TopicDescription_error(*list);
        if !error.is_null() && rd_kafka_error_code(error) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(words(rd_kafka_error_string(error)));
        }
        let operations = rd_kafka_TopicDescription_authorized_operations(*list, &mut count);
        if operations.is_null() {
            return Err("the broker does not say them".into());
        }
        Ok(std::slice::from_raw_parts(operations, count).iter().filter_map(|operation| right(*operation)).collect())
    }
}

fn right(operation: rd_kafka_AclOperation_t) -> Option<Right> {
    match operation {
        rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE => Some(Right::Write),
        rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ => Some(Right::Read),
        rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_DESCRIBE => Some(Right::Describe),
        rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS => Some(Right::DescribeConfigs),
        _ => None,
    }
}

/// # Safety
///
/// `text` is null, or a text that ends with a zero and lives until this returns.
unsafe fn words(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return "an error without words".into();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
