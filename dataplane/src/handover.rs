//! Frames on their way from worker to worker, several in one message.
//!
//! A worker has one [`Inbox`], and every other worker a [`Sender`] into it. What is limited is frames
//! and not messages, so a sender takes room for its frames before it sends them. That number also says
//! when an inbox is closed: then it takes in what has room already, and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrayvec::ArrayVec;
use crossbeam_channel::{Receiver, bounded};

use crate::links::HandedOver;

/// Frames on their way from all other workers to one.
pub const HANDOVER_FRAMES: usize = 4096;
/// Frames in one message: enough that its cost is no part of theirs, and short enough that a message
/// with a single frame copies half a KiB only.
pub const MESSAGE_FRAMES: usize = 32;

/// What one message carries, in order.
pub type Frames<T = HandedOver> = ArrayVec<T, MESSAGE_FRAMES>;

/// Beside the number of frames under way: the receiver takes no more.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// Why frames were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// So many are under way already.
    Full,
    /// The receiver has stopped, or is gone.
    Stopped,
}

/// One worker's way to another.
pub struct Sender<T = HandedOver> {
    messages: crossbeam_channel::Sender<Frames<T>>,
    under_way: Arc<AtomicUsize>,
}

/// Where a worker finds what others hand over.
pub struct Inbox<T = HandedOver> {
    messages: Receiver<Frames<T>>,
    under_way: Arc<AtomicUsize>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            messages: self.messages.clone(),
            under_way: Arc::clone(&self.under_way),
        }
    }
}

/// A way to a worker. It holds as many messages as frames: who has room for a frame can send it.
#[must_use]
pub fn channel<T>() -> (Sender<T>, Inbox<T>) {
    let (sender, messages) = bounded(HANDOVER_FRAMES);
    let under_way = Arc::new(AtomicUsize::new(0));
    let sender = Sender {
        messages: sender,
        under_way: Arc::clone(&under_way),
    };
    let inbox = Inbox {
        messages,
        under_way,
    };
    (sender, inbox)
}

impl<T> Sender<T> {
    /// Sends frames in one message, the first ones of them if there is no room for all.
    ///
    /// # Errors
    /// Says why some are left in `frames`.
    pub fn send(&self, frames: &mut Frames<T>) -> Result<(), Refusal> {
        let wanted = frames.len();
        let granted = self.take_room(wanted)?;
        let mut message = std::mem::take(frames);
        frames.extend(message.drain(granted..));
        if let Err(refused) = self.messages.try_send(message) {
            let mut message = refused.into_inner();
            message.extend(frames.drain(..));
            *frames = message;
            self.under_way.fetch_sub(granted, Ordering::Relaxed);
            return Err(Refusal::Stopped);
        }
        if granted < wanted {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    /// Takes room for at most so many frames, and for one at least. The number alone is what matters
    /// here: what frames hold is the channel's business.
    fn take_room(&self, wanted: usize) -> Result<usize, Refusal> {
        let mut now = self.under_way.load(Ordering::Relaxed);
        loop {
            if now & CLOSED != 0 {
                return Err(Refusal::Stopped);
            }
            let granted = wanted.min(HANDOVER_FRAMES.saturating_sub(now));
            if granted == 0 {
                return Err(Refusal::Full);
            }
            let new = now + granted;
            let relaxed = Ordering::Relaxed;
            match self
                .under_way
                .compare_exchange_weak(now, new, relaxed, relaxed)
            {
                Ok(_) => return Ok(granted),
                Err(other) => now = other,
            }
        }
    }
}

impl<T> Inbox<T> {
    /// The next message, if there is one.
    #[inline]
    #[must_use]
    pub fn receive(&self) -> Option<Frames<T>> {
        let frames = self.messages.try_recv().ok()?;
        self.under_way.fetch_sub(frames.len(), Ordering::Relaxed);
        Some(frames)
    }

    /// Takes no more from now on. Gives what comes still: senders that have taken room are about to
    /// use it.
    pub fn close(&self) -> impl Iterator<Item = Frames<T>> + '_ {
        self.under_way.fetch_or(CLOSED, Ordering::Relaxed);
        std::iter::from_fn(|| {
            while self.under_way.load(Ordering::Relaxed) != CLOSED {
                if let Some(frames) = self.receive() {
                    return Some(frames);
                }
                std::hint::spin_loop();
            }
            None
        })
    }
}

#[cfg(test)]
mod tests;
