//! The handshake over real sockets, and messages that break the protocol.

use super::*;

fn descriptor() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn bell() -> OwnedFd {
    Doorbell::new().unwrap().fd
}

fn hello(park: bool, older: usize) -> Message {
    Message::Hello(Hello {
        commands: descriptor(),
        doorbell: bell(),
        park: park.then(descriptor),
        older: (0..older).map(|_| descriptor()).collect(),
    })
}

fn receive(from: &Connection) -> Result<Message, SessionError> {
    Ok(from.receive()?.expect("a message is there at once"))
}

/// Sends words and descriptors that `Message` would not.
fn send_raw(to: &Connection, bytes: &[u8], fds: usize) {
    let fds: Vec<OwnedFd> = (0..fds).map(|_| descriptor()).collect();
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(17))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    let parts = [IoSlice::new(bytes)];
    net::sendmsg(&to.socket, &parts, &mut control, SendFlags::NOSIGNAL).unwrap();
}

fn raw_error(words: [u64; MESSAGE_WORDS], fds: usize) -> SessionError {
    let (a, b) = Connection::pair().unwrap();
    send_raw(&a, &to_bytes(words), fds);
    b.receive().unwrap_err()
}

#[test]
fn messages_arrive_with_their_descriptors() {
    let (ike, dataplane) = Connection::pair().unwrap();
    for (park, older) in [(false, 0), (true, 0), (false, MAX_OLDER), (true, MAX_OLDER)] {
        ike.send(&hello(park, older)).unwrap();
        let Message::Hello(got) = receive(&dataplane).unwrap() else {
            panic!("no Hello")
        };
        assert_eq!((got.park.is_some(), got.older.len()), (park, older));
        assert!(Doorbell::from_fd(got.doorbell).is_ok());
    }
    let welcome = Welcome {
        session: 9,
        state: descriptor(),
        doorbell: bell(),
        park: None,
    };
    dataplane.send(&Message::Welcome(welcome)).unwrap();
    let Message::Welcome(got) = receive(&ike).unwrap() else {
        panic!("no Welcome")
    };
    assert_eq!((got.session, got.park.is_some()), (9, false));
    ike.send(&Message::Park(descriptor())).unwrap();
    assert!(matches!(receive(&dataplane), Ok(Message::Park(_))));
    dataplane.send(&Message::Refused).unwrap();
    assert!(matches!(receive(&ike), Ok(Message::Refused)));
    assert!(ike.receive().unwrap().is_none());
}

#[test]
fn received_descriptors_close_on_exec() {
    let (a, b) = Connection::pair().unwrap();
    a.send(&Message::Park(descriptor())).unwrap();
    let Message::Park(fd) = receive(&b).unwrap() else {
        panic!("no Park")
    };
    assert!(
        rustix::io::fcntl_getfd(&fd)
            .unwrap()
            .contains(rustix::io::FdFlags::CLOEXEC)
    );
}

#[test]
fn an_end_that_is_gone_is_noticed() {
    let (a, b) = Connection::pair().unwrap();
    drop(a);
    assert_eq!(b.receive().err(), Some(SessionError::Closed));
    assert_eq!(b.send(&Message::Refused), Err(SessionError::Closed));
}

#[test]
fn messages_that_break_the_protocol_are_refused() {
    let number = SessionError::Message("number of descriptors");
    assert_eq!(
        raw_error([1, VERSION, kind::PARK, 1, 0], 1),
        SessionError::Message("magic")
    );
    let version = SessionError::Version { found: VERSION + 1 };
    assert_eq!(
        raw_error([MAGIC, VERSION + 1, kind::PARK, 1, 0], 1),
        version
    );
    assert_eq!(
        raw_error([MAGIC, VERSION, 99, 0, 0], 0),
        SessionError::Message("kind")
    );
    assert_eq!(
        raw_error([MAGIC, VERSION, 4, 2, 0], 0),
        SessionError::Message("park flag")
    );
    assert_eq!(raw_error([MAGIC, VERSION, kind::PARK, 1, 0], 0), number);
    assert_eq!(raw_error([MAGIC, VERSION, kind::PARK, 1, 0], 2), number);
    assert_eq!(raw_error([MAGIC, VERSION, kind::HELLO, 0, 0], 1), number);
    assert_eq!(raw_error([MAGIC, VERSION, kind::HELLO, 0, 0], 7), number);
    assert_eq!(raw_error([MAGIC, VERSION, kind::WELCOME, 1, 0], 2), number);
    assert_eq!(
        raw_error([MAGIC, VERSION, kind::HELLO, 1, 0], 16),
        SessionError::Message("length")
    );
}

#[test]
fn hostile_lengths_are_refused() {
    for len in [1, MESSAGE_BYTES - 1, MESSAGE_BYTES + 1, 4_096] {
        let (a, b) = Connection::pair().unwrap();
        send_raw(&a, &vec![0; len], 0);
        assert_eq!(
            b.receive().err(),
            Some(SessionError::Message("length")),
            "{len} bytes"
        );
    }
}

#[test]
fn too_many_descriptors_are_not_sent() {
    let (a, _b) = Connection::pair().unwrap();
    let error = a.send(&hello(true, MAX_OLDER + 1)).unwrap_err();
    assert_eq!(error, SessionError::Message("number of descriptors"));
}

fn socket_path(name: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    let dir = std::env::temp_dir().join(format!("culvert-api-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("dataplane.sock");
    (dir, path)
}

#[test]
fn a_living_listener_is_not_replaced_and_a_dead_one_is() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, path) = socket_path("listen");
    let listener = Listener::bind(&path).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(Listener::bind(&path).err(), Some(SessionError::Listening));
    drop(listener);
    assert!(path.exists());
    let next = Listener::bind(&path).unwrap();
    let client = Connection::connect(&path).unwrap();
    let server = next.accept().unwrap().expect("somebody waits");
    assert_eq!(server.peer_pid(), Some(std::process::id()));
    assert_eq!(client.peer_pid(), Some(std::process::id()));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn nobody_listens_is_an_error_that_says_so() {
    let (dir, path) = socket_path("nobody");
    let error = Connection::connect(&path).unwrap_err();
    assert!(
        matches!(
            error,
            SessionError::System {
                errno: Errno::NOENT,
                ..
            }
        ),
        "{error}"
    );
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn only_our_user_and_root_are_trusted() {
    assert!(is_trusted(1000, 1000));
    assert!(is_trusted(0, 1000));
    assert!(!is_trusted(1001, 1000));
    assert!(!is_trusted(1000, 0));
}

#[test]
fn a_doorbell_rings_until_it_is_silenced() {
    let bell = Doorbell::new().unwrap();
    let other = Doorbell::from_fd(bell.share().unwrap()).unwrap();
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(&bell, &mut count), Err(Errno::AGAIN));
    other.ring();
    other.ring();
    bell.silence();
    assert_eq!(rustix::io::read(&bell, &mut count), Err(Errno::AGAIN));
    bell.silence();
}

#[test]
fn a_doorbell_is_an_eventfd_that_cannot_block() {
    assert_eq!(
        Doorbell::from_fd(descriptor()).err(),
        Some(SessionError::Message("doorbell"))
    );
    let blocking = eventfd(u32::MAX, EventfdFlags::CLOEXEC).unwrap();
    let bell = Doorbell::from_fd(blocking).unwrap();
    rustix::io::write(&bell, &(u64::MAX - 1 - u64::from(u32::MAX)).to_ne_bytes()).unwrap();
    bell.ring();
}
