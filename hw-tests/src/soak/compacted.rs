//! The compacted topic at the end: the newest record of each key is there, with its offset and its content.

use std::time::{Duration, Instant};

use anyhow::Result;
use rdkafka::consumer::Consumer;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::Args;
use super::content::{COMPACTED, Content, RecordId};
use super::produce::Acked;
use super::read;
use super::report::Compacted;

pub fn read(args: &Args, content: &Content, acked: &Acked, drain: Duration) -> Result<Compacted> {
    let consumer = read::consumer(args)?;
    let topic = &args.compacted_topic;
    let (start, log_end) = read::watermarks(&consumer, topic, 0)?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Offset(start))?;
    consumer.assign(&assignment)?;
    let mut newest_read = vec![None; args.keys as usize];
    let mut seen = Compacted { produced: acked.of_compacted(), ..Compacted::default() };
    let (mut last, end) = (-1, Instant::now() + drain);
    while last + 1 < log_end && Instant::now() < end {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else { continue };
        let number = message.offset() as u64;
        let key = content.key(number);
        let is_right = content.is(RecordId { partition: COMPACTED, number }, message.payload().unwrap_or_default())
            && message.key() == Some(&key.to_be_bytes()[..])
            && message.offset() > last;
        seen.wrong += u64::from(!is_right);
        seen.read += 1;
        last = message.offset();
        newest_read[key as usize] = Some(number);
    }
    let mut newest = vec![None; newest_read.len()];
    (0..seen.produced).for_each(|number| newest[content.key(number) as usize] = Some(number));
    seen.keys = newest.iter().flatten().count() as u64;
    seen.missing = newest.iter().zip(&newest_read).filter(|(newest, read)| newest > read).count() as u64;
    Ok(seen)
}
