use std::sync::atomic::AtomicU64;

use super::*;

fn numbers(range: std::ops::Range<usize>) -> Frames<usize> {
    range.collect()
}

/// Sends numbers in messages of this length until one is refused.
fn fill(sender: &Sender<usize>, length: usize) -> (usize, Frames<usize>, Refusal) {
    let mut next = 0;
    loop {
        let mut frames = numbers(next..next + length);
        if let Err(refusal) = sender.send(&mut frames) {
            return (next + length - frames.len(), frames, refusal);
        }
        assert!(frames.is_empty());
        next += length;
    }
}

#[test]
fn frames_are_limited_whatever_messages_they_come_in() {
    for length in [1, 7, MESSAGE_FRAMES] {
        let (sender, inbox) = channel();
        let (sent, left, refusal) = fill(&sender, length);
        assert_eq!((sent, refusal), (HANDOVER_FRAMES, Refusal::Full));
        assert!(left.iter().copied().eq(sent..sent + left.len()), "the last");
        let mut came = Vec::new();
        while let Some(frames) = inbox.receive() {
            came.extend(frames);
        }
        assert!(came.into_iter().eq(0..HANDOVER_FRAMES), "in order");
        assert_eq!(fill(&sender, length).0, HANDOVER_FRAMES, "room again");
    }
}

#[test]
fn who_has_stopped_gives_all_that_had_room_and_takes_no_more() {
    let (sender, inbox) = channel();
    assert_eq!(sender.send(&mut numbers(0..5)), Ok(()));
    assert_eq!(sender.send(&mut numbers(5..6)), Ok(()));
    assert!(inbox.close().flatten().eq(0..6));
    let mut late = numbers(6..9);
    assert_eq!(sender.send(&mut late), Err(Refusal::Stopped));
    assert_eq!(late, numbers(6..9));
    assert!(inbox.receive().is_none());
}

#[test]
fn who_is_gone_takes_nothing() {
    let (sender, inbox) = channel();
    drop(inbox);
    let mut late = numbers(0..9);
    assert_eq!(sender.send(&mut late), Err(Refusal::Stopped));
    assert_eq!(late, numbers(0..9));
}

#[test]
fn nothing_is_lost_when_an_inbox_is_closed_while_others_send() {
    for _ in 0..20 {
        let (sender, inbox) = channel();
        let (sent, mut came) = (AtomicU64::new(0), 0);
        std::thread::scope(|scope| {
            for length in [1, 3, MESSAGE_FRAMES] {
                let (sender, sent) = (sender.clone(), &sent);
                scope.spawn(move || {
                    loop {
                        let mut frames = numbers(0..length);
                        let outcome = sender.send(&mut frames);
                        let gone = length - frames.len();
                        sent.fetch_add(gone as u64, Ordering::Relaxed);
                        if outcome == Err(Refusal::Stopped) {
                            break;
                        }
                    }
                });
            }
            while came < 10_000 {
                came += inbox.receive().map_or(0, |frames| frames.len() as u64);
            }
            came += inbox.close().map(|frames| frames.len() as u64).sum::<u64>();
        });
        assert_eq!(came, sent.into_inner());
    }
}
