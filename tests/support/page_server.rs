//! A page server of the shape of the dialect's example, in Rust without crates: SOCKET MEMORY-FILE. See page_server.py.
//! Rust 1.63, which Debian 12 has, compiles it.

use std::ffi::{c_int, c_void};
use std::fs::{set_permissions, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::io::{AsRawFd, FromRawFd};
use std::os::unix::net::{UnixListener, UnixStream};

#[derive(Debug)]
struct Region {
    base_host_virt_addr: u64,
    size: u64,
    offset: u64,
    page_size: u64,
}

#[repr(C)]
struct IoVec {
    base: *mut c_void,
    length: usize,
}

#[repr(C)]
struct MessageHeader {
    name: *mut c_void,
    name_length: u32,
    vectors: *mut IoVec,
    vector_count: usize,
    control: *mut c_void,
    control_length: usize,
    flags: c_int,
}

/// struct cmsghdr and one descriptor.
#[repr(C)]
struct Control {
    length: usize,
    level: c_int,
    kind: c_int,
    descriptor: c_int,
    padding: c_int,
}

#[repr(C)]
struct PollDescriptor {
    fd: c_int,
    events: i16,
    revents: i16,
}

/// struct uffdio_copy.
#[repr(C)]
struct Copy {
    destination: u64,
    source: u64,
    length: u64,
    mode: u64,
    copied: i64,
}

/// struct uffdio_zeropage.
#[repr(C)]
struct ZeroPage {
    start: u64,
    length: u64,
    mode: u64,
    zeroed: i64,
}

extern "C" {
    fn recvmsg(fd: c_int, message: *mut MessageHeader, flags: c_int) -> isize;
    fn mmap(address: *mut c_void, length: usize, protection: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
    fn ioctl(fd: c_int, request: u64, ...) -> c_int;
    fn poll(descriptors: *mut PollDescriptor, count: u64, timeout: c_int) -> c_int;
}

const PROT_READ: c_int = 1;
const MAP_PRIVATE: c_int = 2;
const SOL_SOCKET: c_int = 1;
const SCM_RIGHTS: c_int = 1;
const UFFDIO_COPY: u64 = 0xC028_AA03;
const UFFDIO_ZEROPAGE: u64 = 0xC020_AA04;
const EVENT_PAGE_FAULT: u8 = 0x12;
const EVENT_REMOVE: u8 = 0x15;
const POLLIN: i16 = 1;

fn number(object: &str, name: &str) -> u64 {
    let key = format!("\"{name}\":");
    let at = object.find(&key).unwrap_or_else(|| panic!("no {name}")) + key.len();
    let digits: String = object[at..].trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

fn receive(stream: &UnixStream) -> (Vec<Region>, File) {
    let mut text = vec![0u8; 65536];
    let mut vector = IoVec { base: text.as_mut_ptr().cast(), length: text.len() };
    let mut control = Control { length: 0, level: 0, kind: 0, descriptor: -1, padding: 0 };
    let mut message = MessageHeader {
        name: std::ptr::null_mut(),
        name_length: 0,
        vectors: &mut vector,
        vector_count: 1,
        control: (&mut control as *mut Control).cast(),
        control_length: std::mem::size_of::<Control>(),
        flags: 0,
    };
    let count = unsafe { recvmsg(stream.as_raw_fd(), &mut message, 0) };
    assert!(count > 0, "no message");
    assert!(control.level == SOL_SOCKET && control.kind == SCM_RIGHTS, "no descriptor");
    let text = std::str::from_utf8(&text[..count as usize]).expect("UTF-8");
    let regions = text
        .split('}')
        .filter(|part| part.contains('{'))
        .map(|object| Region {
            base_host_virt_addr: number(object, "base_host_virt_addr"),
            size: number(object, "size"),
            offset: number(object, "offset"),
            page_size: number(object, "page_size"),
        })
        .collect();
    (regions, unsafe { File::from_raw_fd(control.descriptor) })
}

/// The memory file, mapped, and the machine's regions that it is the content of.
struct Memory {
    begin: u64,
    regions: Vec<Region>,
    faults: File,
    removed: Vec<(u64, u64)>,
    given: u64,
}

impl Memory {
    fn map(path: &str, regions: Vec<Region>, faults: File) -> Memory {
        let file = File::open(path).expect("a memory file");
        let size = file.metadata().expect("its size").len();
        assert_eq!(size, regions.iter().map(|region| region.size).sum::<u64>(), "the memory file's size");
        let begin = unsafe { mmap(std::ptr::null_mut(), size as usize, PROT_READ, MAP_PRIVATE, file.as_raw_fd(), 0) } as u64;
        assert_ne!(begin, u64::MAX, "mmap");
        Memory { begin, regions, faults, removed: Vec::new(), given: 0 }
    }

    /// One event of the userfaultfd.
    fn heed(&mut self) {
        let mut event = [0u8; 32];
        match self.faults.read_exact(&mut event) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return, // whoever waited has been woken otherwise
            read => read.expect("an event"),
        }
        let word = |at: usize| u64::from_le_bytes(event[at..at + 8].try_into().unwrap());
        match event[0] {
            EVENT_REMOVE => self.removed.push((word(8), word(16))),
            EVENT_PAGE_FAULT => self.give(word(16)),
            other => panic!("event {other:#x}"),
        }
    }

    fn give(&mut self, address: u64) {
        let is_at = |region: &&Region| address.wrapping_sub(region.base_host_virt_addr) < region.size;
        let region = self.regions.iter().find(is_at).expect("a fault in a region");
        let page = address / region.page_size * region.page_size;
        let done = if self.removed.iter().any(|(begin, end)| (*begin..*end).contains(&page)) {
            let mut zero = ZeroPage { start: page, length: region.page_size, mode: 0, zeroed: 0 };
            unsafe { ioctl(self.faults.as_raw_fd(), UFFDIO_ZEROPAGE, &mut zero) }
        } else {
            let source = self.begin + region.offset + (page - region.base_host_virt_addr);
            let mut copy = Copy { destination: page, source, length: region.page_size, mode: 0, copied: 0 };
            unsafe { ioctl(self.faults.as_raw_fd(), UFFDIO_COPY, &mut copy) }
        };
        if done == 0 {
            self.given += 1;
        } else {
            // Two vCPUs came to it at once.
            assert_eq!(std::io::Error::last_os_error().kind(), ErrorKind::AlreadyExists);
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let listener = UnixListener::bind(&arguments[1]).expect("a socket");
    set_permissions(&arguments[1], Permissions::from_mode(0o666)).expect("the machine is another user's");
    println!("listening");
    std::io::stdout().flush().expect("somebody who reads");
    let (stream, _) = listener.accept().expect("a connection");
    let (regions, faults) = receive(&stream);
    let mut memory = Memory::map(&arguments[2], regions, faults);
    loop {
        let mut ready = [
            PollDescriptor { fd: memory.faults.as_raw_fd(), events: POLLIN, revents: 0 },
            PollDescriptor { fd: stream.as_raw_fd(), events: POLLIN, revents: 0 },
        ];
        assert!(unsafe { poll(ready.as_mut_ptr(), 2, -1) } > 0);
        if ready[0].revents & POLLIN != 0 {
            memory.heed();
        } else if ready[1].revents != 0 {
            let mut rest = Vec::new();
            (&stream).read_to_end(&mut rest).expect("the end of the connection");
            assert!(rest.is_empty(), "nothing else is said");
            break;
        }
    }
    println!("the machine has ended: {} pages", memory.given);
}
