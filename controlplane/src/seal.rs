//! Checkpoints are sealed under a key file that only the daemon's user can read.
//!
//! Each process derives a key of its own (HKDF-SHA-256 of the file's key over a random salt), so
//! that a counter is enough for a nonce and none is ever used twice.
//!
//! A sealed blob: version (1 byte), salt (32), counter (8, big-endian), ciphertext, tag (16).

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

const VERSION: u8 = 1;
const SALT_BYTES: usize = 32;
const HEADER_BYTES: usize = 1 + SALT_BYTES + 8;
const KEY_BYTES: usize = 32;

/// Seals with this process' key, opens what any process with the same key file sealed.
pub(crate) struct Sealer {
    file_key: Zeroizing<[u8; KEY_BYTES]>,
    salt: [u8; SALT_BYTES],
    key: LessSafeKey,
    counter: u64,
}

impl Sealer {
    /// Reads the key file, or makes one.
    ///
    /// # Errors
    /// Names the file: unreadable, of a wrong length, or readable by others than its owner.
    pub(crate) fn open_key_file(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("key file {}: {error}", path.display()),
            )
        };
        let key = match read_key(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(path),
            other => other,
        };
        Self::new(key.map_err(named)?)
    }

    fn new(file_key: Zeroizing<[u8; KEY_BYTES]>) -> io::Result<Self> {
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt).map_err(|_| io::Error::other("no randomness"))?;
        let key = derive(&file_key, &salt)?;
        Ok(Self {
            file_key,
            salt,
            key,
            counter: 0,
        })
    }

    /// # Errors
    /// Never in practice; the counter is bounded by 2^64.
    pub(crate) fn seal(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        self.counter = self
            .counter
            .checked_add(1)
            .ok_or_else(|| io::Error::other("too many checkpoints for one key"))?;
        let mut header = Vec::with_capacity(HEADER_BYTES + plain.len() + 16);
        header.push(VERSION);
        header.extend_from_slice(&self.salt);
        header.extend_from_slice(&self.counter.to_be_bytes());
        let mut body = Zeroizing::new(plain.to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(self.counter), Aad::from(&header), &mut body)
            .map_err(|_| io::Error::other("a checkpoint could not be sealed"))?;
        header.extend_from_slice(&body);
        header.extend_from_slice(tag.as_ref());
        Ok(header)
    }

    /// Opens a blob; nothing if it was altered or sealed under another key.
    pub(crate) fn open(&self, blob: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (header, body) = blob.split_at_checked(HEADER_BYTES)?;
        let (version, rest) = header.split_first()?;
        let (salt, counter) = rest.split_at_checked(SALT_BYTES)?;
        if *version != VERSION {
            return None;
        }
        let key = derive(&self.file_key, salt.try_into().ok()?).ok()?;
        let counter = u64::from_be_bytes(counter.try_into().ok()?);
        let mut body = Zeroizing::new(body.to_vec());
        let plain = key
            .open_in_place(nonce(counter), Aad::from(header), &mut body)
            .ok()?
            .len();
        body.truncate(plain);
        Some(body)
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn derive(file_key: &[u8; KEY_BYTES], salt: &[u8; SALT_BYTES]) -> io::Result<LessSafeKey> {
    let secret = Salt::new(HKDF_SHA256, salt).extract(file_key);
    let key = secret
        .expand(&[b"culvert checkpoint"], &AES_256_GCM)
        .map(UnboundKey::from)
        .map_err(|_| io::Error::other("no key could be derived"))?;
    Ok(LessSafeKey::new(key))
}

fn read_key(path: &Path) -> io::Result<Zeroizing<[u8; KEY_BYTES]>> {
    let mut file = fs::File::open(path)?;
    let meta = file.metadata()?;
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "others can read it (mode {:04o}): chmod 600",
                meta.mode() & 0o7777
            ),
        ));
    }
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    file.read_exact(&mut *key)?;
    Ok(key)
}

fn make_key(path: &Path) -> io::Result<Zeroizing<[u8; KEY_BYTES]>> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    rand::fill(&mut *key).map_err(|_| io::Error::other("no randomness"))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&*key)?;
    file.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("culvert-seal-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir.join("checkpoint.key")
    }

    #[test]
    fn a_later_process_opens_what_an_earlier_one_sealed() {
        let path = scratch("later");
        let mut first = Sealer::open_key_file(&path).unwrap();
        let blob = first.seal(b"an IKE SA").unwrap();
        let second = Sealer::open_key_file(&path).unwrap();
        assert_eq!(&**second.open(&blob).unwrap(), b"an IKE SA");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn an_altered_or_short_blob_does_not_open() {
        let path = scratch("altered");
        let mut sealer = Sealer::open_key_file(&path).unwrap();
        let blob = sealer.seal(b"an IKE SA").unwrap();
        for at in 0..blob.len() {
            let mut altered = blob.clone();
            altered[at] ^= 1;
            assert!(sealer.open(&altered).is_none(), "byte {at}");
            assert!(sealer.open(&blob[..at]).is_none(), "{at} bytes");
        }
    }

    #[test]
    fn another_key_does_not_open_it() {
        let mut first = Sealer::open_key_file(&scratch("one")).unwrap();
        let second = Sealer::open_key_file(&scratch("two")).unwrap();
        assert!(second.open(&first.seal(b"an IKE SA").unwrap()).is_none());
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        let path = scratch("open");
        Sealer::open_key_file(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Sealer::open_key_file(&path).err().unwrap().to_string();
        assert!(
            error.contains("chmod 600") && error.contains("checkpoint.key"),
            "{error}"
        );
    }

    #[test]
    fn equal_texts_never_seal_alike() {
        let mut sealer = Sealer::open_key_file(&scratch("alike")).unwrap();
        assert_ne!(sealer.seal(b"same").unwrap(), sealer.seal(b"same").unwrap());
    }
}
