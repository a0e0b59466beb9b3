#include "runtime/guest.h"
#include "runtime/interrupts.h"

/// Notices whatever a snapshot loses: registers, SSE state, memory, timers, interrupts, the serial port.
///
/// Prints "survivor ready", then waits for commands, one byte each, with known values in every register that it can
/// spare; each command first checks them:
///   r  checks all of its memory, writes every third page anew, waits for its timers, prints "round N ok"
///   t  prints "tsc N" and "ticks N" (of the local APIC's timer, 1 ms each)
///   q  passes
/// Words of the command line: dirty_mib=N, how much memory it uses (default: 4).
namespace {

using namespace guest;

constexpr std::uint8_t kApicVector = 0x50;
constexpr std::uint8_t kPitVector = 0x51;
constexpr unsigned kPitPin = 2;
constexpr std::uint64_t kPageSize = 4096;
constexpr std::uint64_t kBase = 32 << 20;
constexpr std::uint64_t kPattern = 0x0123'4567'89AB'CDEF;

/// What the words of a page say: of which page, and since which round.
std::uint64_t word_of(std::uint64_t page, std::uint64_t round) { return (page + 1) * kPattern ^ round; }

/// Every third page changes with a round: page p in rounds r with (p + r) % 3 == 0.
std::uint64_t last_change(std::uint64_t page, std::uint64_t round) {
  while (round > 0 && (page + round) % 3 != 0) --round;
  return round;
}

void write_page(std::uint64_t page, std::uint64_t round) {
  for (std::uint64_t at = 0; at < kPageSize; at += 512)
    memory_at<volatile std::uint64_t>(kBase + page * kPageSize + at) = word_of(page, round);
}

void check_pages(std::uint64_t pages, std::uint64_t round) {
  for (std::uint64_t page = 0; page < pages; ++page)
    for (std::uint64_t at = 0; at < kPageSize; at += 512)
      expect_equal(memory_at<volatile std::uint64_t>(kBase + page * kPageSize + at),
                   word_of(page, last_change(page, round)), "memory is as it was written");
}

/// Waits for a byte at the serial port with values in registers, and compares them afterwards; true where they are
/// what they were.
bool wait_with_full_registers() {
  std::uint64_t good = 0;
  asm volatile(
      R"(
      movq $0x1111111111111111, %%r8
      movq $0x2222222222222222, %%r9
      movq $0x3333333333333333, %%r10
      movq $0x4444444444444444, %%r11
      movq $0x5555555555555555, %%r12
      movq $0x6666666666666666, %%r13
      movq $0x7777777777777777, %%r14
      movq $0x0888888888888888, %%r15
      movq %%r8, %%xmm0
      movq %%r9, %%xmm3
      movq %%r10, %%xmm7
      movq %%r11, %%xmm11
      movq %%r12, %%xmm15
      pshufd $0x4e, %%xmm15, %%xmm14
      movl $0x3fd, %%edx
    1:
      inb %%dx, %%al
      testb $1, %%al
      jz 1b
      xorl %%ecx, %%ecx
      movq $0x1111111111111111, %%rax
      cmpq %%rax, %%r8
      jne 2f
      movq %%xmm0, %%rbx
      cmpq %%rax, %%rbx
      jne 2f
      movq $0x2222222222222222, %%rax
      cmpq %%rax, %%r9
      jne 2f
      movq %%xmm3, %%rbx
      cmpq %%rax, %%rbx
      jne 2f
      movq $0x3333333333333333, %%rax
      cmpq %%rax, %%r10
      jne 2f
      movq %%xmm7, %%rbx
      cmpq %%rax, %%rbx
      jne 2f
      movq $0x4444444444444444, %%rax
      cmpq %%rax, %%r11
      jne 2f
      movq %%xmm11, %%rbx
      cmpq %%rax, %%rbx
      jne 2f
      movq $0x5555555555555555, %%rax
      cmpq %%rax, %%r12
      jne 2f
      movq %%xmm15, %%rbx
      cmpq %%rax, %%rbx
      jne 2f
      psrldq $8, %%xmm14
      movq %%xmm14, %%rbx
      cmpq %%rax, %%rbx
      jne 2f
      movq $0x6666666666666666, %%rax
      cmpq %%rax, %%r13
      jne 2f
      movq $0x7777777777777777, %%rax
      cmpq %%rax, %%r14
      jne 2f
      movq $0x0888888888888888, %%rax
      cmpq %%rax, %%r15
      jne 2f
      movl $1, %%ecx
    2:
      )"
      : "=c"(good)
      :
      : "rax", "rbx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm3", "xmm7", "xmm11",
        "xmm14", "xmm15", "cc", "memory");
  return good == 1;
}

void expect_ticking(std::uint8_t vector, std::string_view whose) {
  expect(wait_for_interrupts(vector, interrupt_count(vector) + 3), whose);
}

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  const std::uint64_t pages = boot.number("dirty_mib", 4) * 256;
  start_interrupts();
  local_apic::start_timer(kApicVector, 1'000'000);
  io_apic::route(kPitPin, {.vector = kPitVector});
  out8(0x43, 0x34);  // channel 0, mode 2: 11932 ticks, 100 Hz
  out8(0x40, 0x9C);
  out8(0x40, 0x2E);
  for (std::uint64_t page = 0; page < pages; ++page) write_page(page, 0);
  print("survivor ready\n");
  for (std::uint64_t round = 0;;) {
    expect(wait_with_full_registers(), "registers are as they were");
    switch (static_cast<char>(in8(serial::kData))) {
      case 'r':
        check_pages(pages, round);
        ++round;
        for (std::uint64_t page = 0; page < pages; ++page)
          if ((page + round) % 3 == 0) write_page(page, round);
        expect_ticking(kApicVector, "the local APIC's timer goes on");
        expect_ticking(kPitVector, "the PIT goes on");
        print("round ", round, " ok\n");
        break;
      case 't':
        print("tsc ", rdtsc(), "\nticks ", std::uint64_t{interrupt_count(kApicVector)}, "\n");
        break;
      case 'q':
        check_pages(pages, round);
        pass();
      default:
        break;
    }
  }
}
