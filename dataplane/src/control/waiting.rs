//! Frames that wait until the Ethernet address of their next hop is known.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::neighbours::Key;
use crate::port::PortIndex;

/// Most frames that wait for one next hop.
const PER_HOP_FRAMES: usize = 64;
/// Most frames that wait at all: they hold buffers that workers need.
const ALL_FRAMES: usize = 1024;
/// How long a frame waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// Frames of any kind `F`, by next hop, oldest first.
#[derive(Debug)]
pub struct Waiting<F> {
    queues: HashMap<Key, Vec<(Instant, F)>>,
    frames: usize,
}

impl<F> Default for Waiting<F> {
    fn default() -> Self {
        Self {
            queues: HashMap::new(),
            frames: 0,
        }
    }
}

impl<F> Waiting<F> {
    /// Keeps a frame; gives it back when there is no room.
    pub fn push(&mut self, port: PortIndex, hop: IpAddr, frame: F, now: Instant) -> Result<(), F> {
        if self.frames >= ALL_FRAMES {
            return Err(frame);
        }
        let queue = self.queues.entry((port, hop)).or_default();
        if queue.len() >= PER_HOP_FRAMES {
            return Err(frame);
        }
        queue.push((now, frame));
        self.frames = self.frames.saturating_add(1);
        Ok(())
    }

    /// Next hops that frames wait for.
    pub fn hops(&self) -> impl Iterator<Item = Key> + '_ {
        self.queues.keys().copied()
    }

    /// How many frames wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames
    }

    /// True when no frame waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Takes the frames of one next hop, oldest first.
    pub fn take(&mut self, hop: &Key) -> Vec<F> {
        let queue = self.queues.remove(hop).unwrap_or_default();
        self.frames = self.frames.saturating_sub(queue.len());
        queue.into_iter().map(|(_, frame)| frame).collect()
    }

    /// Takes the frames that have waited too long.
    pub fn expire(&mut self, now: Instant) -> Vec<F> {
        let mut late = Vec::new();
        self.queues.retain(|_, queue| {
            let waiting = |(since, _): &(Instant, F)| now.duration_since(*since) < PATIENCE;
            let first = queue.iter().position(waiting).unwrap_or(queue.len());
            late.extend(queue.drain(..first).map(|(_, frame)| frame));
            !queue.is_empty()
        });
        self.frames = self.frames.saturating_sub(late.len());
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(last: u8) -> Key {
        (PortIndex::new(0).unwrap(), [192, 0, 2, last].into())
    }

    fn push(waiting: &mut Waiting<u32>, last: u8, frame: u32, now: Instant) -> Result<(), u32> {
        let (port, hop) = key(last);
        waiting.push(port, hop, frame, now)
    }

    #[test]
    fn frames_of_a_hop_come_out_in_order_and_others_stay() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        for frame in [1, 2, 3] {
            push(&mut waiting, 1, frame, now).unwrap();
        }
        push(&mut waiting, 2, 9, now).unwrap();
        assert_eq!(waiting.take(&key(1)), [1, 2, 3]);
        assert_eq!(waiting.len(), 1);
        assert!(waiting.take(&key(1)).is_empty());
    }

    #[test]
    fn late_frames_and_only_those_expire() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        push(&mut waiting, 1, 1, now).unwrap();
        push(&mut waiting, 1, 2, now + PATIENCE / 2).unwrap();
        assert!(waiting.expire(now + PATIENCE / 2).is_empty());
        assert_eq!(waiting.expire(now + PATIENCE), [1]);
        assert_eq!(waiting.expire(now + PATIENCE * 2), [2]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn there_is_room_for_so_many_of_a_hop_and_so_many_of_all() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        for _ in 0..PER_HOP_FRAMES {
            push(&mut waiting, 0, 0, now).unwrap();
        }
        assert_eq!(push(&mut waiting, 0, 7, now), Err(7));
        let hops = u8::try_from(ALL_FRAMES / PER_HOP_FRAMES).unwrap();
        for hop in 1..hops {
            for _ in 0..PER_HOP_FRAMES {
                push(&mut waiting, hop, 0, now).unwrap();
            }
        }
        assert_eq!(push(&mut waiting, hops, 7, now), Err(7));
    }
}
