//! Writes capture files (the classic format, microseconds, Ethernet).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

const MAGIC: u32 = 0xa1b2_c3d4;
const SNAP_BYTES: u32 = 65_535;
const LINK_ETHERNET: u32 = 1;

/// A capture file that is being written.
pub(crate) struct Capture {
    file: BufWriter<File>,
    /// Frames written so far.
    pub(crate) frames: u64,
}

impl Capture {
    /// Creates the file with its header.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&MAGIC.to_le_bytes())?;
        file.write_all(&[2, 0, 4, 0])?;
        file.write_all(&[0; 8])?;
        file.write_all(&SNAP_BYTES.to_le_bytes())?;
        file.write_all(&LINK_ETHERNET.to_le_bytes())?;
        Ok(Self { file, frames: 0 })
    }

    /// Appends a frame; what is longer than a capture can hold is cut.
    pub(crate) fn push(&mut self, frame: &[u8]) -> io::Result<()> {
        let length = u32::try_from(frame.len())
            .unwrap_or(SNAP_BYTES)
            .min(SNAP_BYTES);
        self.file.write_all(&[0; 8])?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file
            .write_all(&frame[..frame.len().min(SNAP_BYTES as usize)])?;
        self.frames += 1;
        Ok(())
    }

    /// Writes out what is buffered.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.file.flush()?;
        Ok(self.frames)
    }
}
