//! A unikernel of parts that others wrote: serial port and virtio drivers of crates.io, and nothing of Linux.
//!
//! Entered by the Linux 64-bit protocol: long mode, the first GiB mapped to itself. Reads a sector of its drive, has an ARP
//! request answered by 10.9.0.1, says WAITING, and does both again at a key. Then it pulls the keyboard's reset line.

#![no_std]
#![no_main]

use core::arch::global_asm;
use core::fmt::Write;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use uart_16550::SerialPort;
use virtio_drivers::device::{blk::VirtIOBlk, net::VirtIONetRaw};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::{BufferDirection, Hal, PhysAddr, PAGE_SIZE};

// A stack, SSE, which Rust's code uses, and the fourth GiB, where devices are, by pages of 2 MiB.
global_asm!(
    r#"
    .globl _start
    _start:
      lea rsp, [rip + stack_top]
      mov rax, cr4
      or rax, 0x600
      mov cr4, rax
      mov rax, cr3
      and rax, -4096
      mov rbx, [rax]
      and rbx, -4096
      lea rdi, [rip + directory]
      lea rdx, [rdi + 3]
      mov [rbx + 24], rdx
      mov eax, 0xc0000083
      mov ecx, 512
    2:
      mov [rdi], rax
      add rax, 0x200000
      add rdi, 8
      dec ecx
      jnz 2b
      mov rax, cr3
      mov cr3, rax
      call {main}
    .bss
    .balign 4096
    directory: .skip 4096
    stack: .skip 65536
    stack_top:
    .text
    .globl memcpy, memmove, memset, memcmp, bcmp
    memmove:
      mov rax, rdi
      mov rcx, rdx
      cmp rdi, rsi
      jbe 3f
      lea rdi, [rdi + rdx - 1]
      lea rsi, [rsi + rdx - 1]
      std
      rep movsb
      cld
      ret
    memcpy:
      mov rax, rdi
      mov rcx, rdx
    3:
      rep movsb
      ret
    memset:
      mov r8, rdi
      mov eax, esi
      mov rcx, rdx
      rep stosb
      mov rax, r8
      ret
    memcmp:
    bcmp:
      xor eax, eax
      mov rcx, rdx
      test rcx, rcx
      jz 4f
      repe cmpsb
      movzx eax, byte ptr [rdi - 1]
      movzx edx, byte ptr [rsi - 1]
      sub eax, edx
    4:
      ret
    "#,
    main = sym main,
);

/// Memory is where its address says, and pages are never given back.
struct Direct;

#[repr(C, align(4096))]
struct Pages([u8; 64 * PAGE_SIZE]);
static mut PAGES: Pages = Pages([0; 64 * PAGE_SIZE]);
static USED: AtomicUsize = AtomicUsize::new(0);

unsafe impl Hal for Direct {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let first = USED.fetch_add(pages, Ordering::Relaxed);
        assert!(first + pages <= 64);
        let at = &raw mut PAGES as usize + first * PAGE_SIZE;
        (at as PhysAddr, NonNull::new(at as *mut u8).unwrap())
    }
    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }
    unsafe fn mmio_phys_to_virt(at: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(at as usize as *mut u8).unwrap()
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.as_ptr() as *mut u8 as usize as PhysAddr
    }
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// The windows of devices, in the order of their configuration.
const WINDOWS: usize = 0xd000_0000;
const WINDOW: usize = 4096;

fn transport(number: usize) -> MmioTransport<'static> {
    let header = NonNull::new((WINDOWS + number * WINDOW) as *mut VirtIOHeader).unwrap();
    unsafe { MmioTransport::new(header, WINDOW) }.unwrap()
}

fn read_drive(drive: &mut VirtIOBlk<Direct, MmioTransport<'static>>, serial: &mut SerialPort) {
    let mut sector = [0; 512];
    drive.read_blocks(0, &mut sector).unwrap();
    let line = sector.split(|byte| *byte == b'\n').next().unwrap();
    writeln!(serial, "drive: {}", core::str::from_utf8(line).unwrap()).unwrap();
}

/// Who has 10.9.0.1? Waits for who says so.
fn ask_host(net: &mut VirtIONetRaw<Direct, MmioTransport<'static>, 16>, serial: &mut SerialPort) {
    let mac = net.mac_address();
    let mut request = [0u8; 42];
    request[..6].fill(0xff);
    request[6..12].copy_from_slice(&mac);
    request[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    request[22..28].copy_from_slice(&mac);
    request[28..32].copy_from_slice(&[10, 9, 0, 2]);
    request[38..42].copy_from_slice(&[10, 9, 0, 1]);
    net.send(&request).unwrap();
    loop {
        let mut frame = [0; 2048];
        let (head, length) = net.receive_wait(&mut frame).unwrap();
        let said = &frame[head..head + length];
        if length >= 42 && said[12..14] == [8, 6] && said[20..22] == [0, 2] && said[28..32] == [10, 9, 0, 1] {
            break;
        }
    }
    writeln!(serial, "network: 10.9.0.1 has answered").unwrap();
}

extern "C" fn main() -> ! {
    let mut serial = unsafe { SerialPort::new(0x3f8) };
    serial.init();
    writeln!(serial, "unikernel of virtio-drivers 0.13.0").unwrap();
    let mut drive = VirtIOBlk::new(transport(0)).unwrap();
    let mut net = VirtIONetRaw::new(transport(1)).unwrap();
    read_drive(&mut drive, &mut serial);
    ask_host(&mut net, &mut serial);
    writeln!(serial, "WAITING").unwrap();
    serial.receive();
    read_drive(&mut drive, &mut serial);
    ask_host(&mut net, &mut serial);
    writeln!(serial, "WENT ON").unwrap();
    loop {
        unsafe { core::arch::asm!("out 0x64, al", in("al") 0xfe_u8) };
    }
}

#[panic_handler]
fn panic(why: &core::panic::PanicInfo) -> ! {
    let mut serial = unsafe { SerialPort::new(0x3f8) };
    let _ = writeln!(serial, "{why}");
    loop {
        unsafe { core::arch::asm!("hlt") };
    }
}

/// What `core`, which was compiled for Linux, names and never calls: there is no unwinding.
#[no_mangle]
extern "C" fn rust_eh_personality() {}
#[no_mangle]
extern "C" fn _Unwind_Resume() {}
