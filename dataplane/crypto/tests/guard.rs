//! Nothing outside an operation's `data` is touched: it stands between two pages that cannot be.
#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test"
)]

use core::ptr;

use crypto::{Aad, ICV_ROOM, KeyContext, Op, Tier};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

const PAGE: usize = 4096;
/// Accessible pages: room for 9,000 bytes.
const PAGES: usize = 3;

/// Memory with a page before and a page behind that nobody may touch.
struct Guarded(*mut u8);

impl Guarded {
    fn new() -> Self {
        let (all, read_write) = ((PAGES + 2) * PAGE, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: new memory, wherever the kernel wants it.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), all, read_write, MapFlags::PRIVATE) };
        let start: *mut u8 = start.unwrap().cast();
        for page in [0, PAGES + 1] {
            let at = start.wrapping_add(page * PAGE).cast();
            // SAFETY: a page of that memory, which nothing refers to.
            unsafe { mprotect(at, PAGE, MprotectFlags::empty()) }.unwrap();
        }
        Self(start)
    }

    /// `len` bytes right behind the first page, or right before the last one.
    fn bytes(&mut self, len: usize, at_end: bool) -> &mut [u8] {
        assert!(len <= PAGES * PAGE);
        let shift = if at_end { PAGES * PAGE - len } else { 0 };
        let start = self.0.wrapping_add(PAGE + shift);
        // SAFETY: within the accessible pages, and borrowed with this.
        unsafe { core::slice::from_raw_parts_mut(start, len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped.
        let _ = unsafe { munmap(self.0.cast(), (PAGES + 2) * PAGE) };
    }
}

#[test]
fn nothing_outside_the_data_is_touched() {
    let mut places: Vec<Guarded> = (0..9).map(|_| Guarded::new()).collect();
    for tier in Tier::ALL.into_iter().filter(|tier| tier.available()) {
        for icv_len in [16, 12, 8] {
            let key = KeyContext::with_tier(tier, &[7; 32], *b"salt", icv_len).unwrap();
            let lengths = (0..=600).chain(1400..=1440).chain(8990..=9010);
            for (len, at_end) in lengths.flat_map(|len| [(len, false), (len, true)]) {
                // Several of a length, so that those for many packets at once have their turn.
                for call in [crypto::seal as fn(&mut [Op<'_>]), crypto::open] {
                    let mut ops: Vec<_> = places
                        .iter_mut()
                        .map(|place| {
                            let data = place.bytes(len + ICV_ROOM, at_end);
                            Op::new(&key, [1; 8], Aad::sequence(1, 2), data).unwrap()
                        })
                        .collect();
                    call(&mut ops);
                    assert!(ops.iter().all(Op::ok), "{tier} {len}");
                }
                for place in &mut places {
                    place.bytes(len, at_end).fill(0);
                }
            }
        }
    }
}
