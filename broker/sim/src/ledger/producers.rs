//! Idempotent producers, which repeat in order what they have no answer for.

use seawall_metadata::StreamId;

use super::Ledger;

/// An idempotent producer of one partition: it repeats in order what it has no answer for.
pub struct Producer {
    pub stream: StreamId,
    pub id: i64,
    pub next_sequence: i32,
    pub queue: Vec<Sent>,
    /// Exclusive end offset of its newest batch.
    pub end: i64,
    /// A restart after a deletion: what was deleted takes the memory of its producers along.
    pub forgotten: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub batch: usize,
    pub state: SentState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentState {
    InFlight,
    /// Failed, or the broker died.
    Repeat,
    Acked,
}

impl Ledger {
    pub fn add_producer(&mut self, stream: StreamId, next_sequence: i32) -> usize {
        let id = 1_000 + self.producers_made;
        self.producers_made += 1;
        self.producers.push(Producer { stream, id, next_sequence, queue: Vec::new(), end: 0, forgotten: false });
        self.producers.len() - 1
    }

    pub fn producers_of(&self, stream: StreamId) -> Vec<i64> {
        self.producers.iter().filter(|producer| producer.stream == stream).map(|producer| producer.id).collect()
    }

    pub fn producer(&mut self, id: i64) -> Option<&mut Producer> {
        self.producers.iter_mut().find(|producer| producer.id == id)
    }

    /// A producer that the broker need not know any more gives up, as clients do. False: the broker should know it.
    pub fn give_up(&mut self, id: i64) -> bool {
        let forgotten = self.producer(id).is_some_and(|producer| producer.forgotten);
        if forgotten {
            self.producers.retain(|producer| producer.id != id);
        }
        forgotten
    }

    /// An answer to what a producer sent.
    pub fn answered(&mut self, producer: i64, batch: usize, acked: bool) {
        let Some(producer) = self.producer(producer) else { return };
        if let Some(sent) = producer.queue.iter_mut().find(|sent| sent.batch == batch) {
            sent.state = if acked { SentState::Acked } else { SentState::Repeat };
        }
        let done = producer.queue.iter().take_while(|sent| sent.state == SentState::Acked).count();
        producer.queue.drain(..done);
    }
}
