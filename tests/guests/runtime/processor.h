#pragma once

#include <cstdint>
#include <span>

/// The instructions that talk to the machine: I/O ports, MMIO, barriers, time. All may be used at level 3.
///
///   out8(0x3F8, 'x');
///   Mmio{0xD000'0000}.write32(0x50, 0);
namespace guest {

inline void out8(std::uint16_t port, std::uint8_t value) { asm volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
inline void out16(std::uint16_t port, std::uint16_t value) { asm volatile("outw %0, %1" ::"a"(value), "Nd"(port)); }
inline void out32(std::uint16_t port, std::uint32_t value) { asm volatile("outl %0, %1" ::"a"(value), "Nd"(port)); }
inline std::uint8_t in8(std::uint16_t port) {
  std::uint8_t value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
inline std::uint16_t in16(std::uint16_t port) {
  std::uint16_t value;
  asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
inline std::uint32_t in32(std::uint16_t port) {
  std::uint32_t value;
  asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
/// All bytes by one REP OUTSB. (KVM hands them to the monitor one by one.)
inline void out_string(std::uint16_t port, std::span<const std::uint8_t> bytes) {
  const std::uint8_t* source = bytes.data();
  std::uint64_t count = bytes.size();
  asm volatile("rep outsb" : "+S"(source), "+c"(count) : "d"(port) : "memory");
}
/// Fills all bytes by one REP INSB. KVM asks the monitor for many at once: an exit with a count.
inline void in_string(std::uint16_t port, std::span<std::uint8_t> bytes) {
  std::uint8_t* target = bytes.data();
  std::uint64_t count = bytes.size();
  asm volatile("rep insb" : "+D"(target), "+c"(count) : "d"(port) : "memory");
}

/// A window of device registers at a physical address below 4 GiB (everything there is mapped one to one). Each call
/// is exactly one load or store of that width, by a plain MOV, which every emulator knows.
class Mmio {
 public:
  constexpr explicit Mmio(std::uint64_t base) : base_(base) {}
  [[nodiscard]] std::uint8_t read8(std::uint64_t offset) const {
    std::uint8_t value;
    asm volatile("movb (%1), %0" : "=r"(value) : "r"(base_ + offset) : "memory");
    return value;
  }
  [[nodiscard]] std::uint16_t read16(std::uint64_t offset) const {
    std::uint16_t value;
    asm volatile("movw (%1), %0" : "=r"(value) : "r"(base_ + offset) : "memory");
    return value;
  }
  [[nodiscard]] std::uint32_t read32(std::uint64_t offset) const {
    std::uint32_t value;
    asm volatile("movl (%1), %0" : "=r"(value) : "r"(base_ + offset) : "memory");
    return value;
  }
  [[nodiscard]] std::uint64_t read64(std::uint64_t offset) const {
    std::uint64_t value;
    asm volatile("movq (%1), %0" : "=r"(value) : "r"(base_ + offset) : "memory");
    return value;
  }
  void write8(std::uint64_t offset, std::uint8_t value) const {
    asm volatile("movb %0, (%1)" ::"q"(value), "r"(base_ + offset) : "memory");
  }
  void write16(std::uint64_t offset, std::uint16_t value) const {
    asm volatile("movw %0, (%1)" ::"r"(value), "r"(base_ + offset) : "memory");
  }
  void write32(std::uint64_t offset, std::uint32_t value) const {
    asm volatile("movl %0, (%1)" ::"r"(value), "r"(base_ + offset) : "memory");
  }
  void write64(std::uint64_t offset, std::uint64_t value) const {
    asm volatile("movq %0, (%1)" ::"r"(value), "r"(base_ + offset) : "memory");
  }

 private:
  std::uint64_t base_;
};

/// What lies at a physical address of RAM (below 4 GiB, or as high_memory.h has mapped). For what others change
/// meanwhile say memory_at<volatile T>.
template <typename T>
T& memory_at(std::uint64_t address) {
  return *reinterpret_cast<T*>(address);  // NOLINT(performance-no-int-to-ptr): this is the door
}

/// Orders what the other side (a device, another CPU) sees. x86 needs the instruction only between a store and a later
/// load; the others bind the compiler.
inline void full_barrier() { asm volatile("mfence" ::: "memory"); }
inline void store_barrier() { asm volatile("" ::: "memory"); }
inline void load_barrier() { asm volatile("" ::: "memory"); }

/// The time stamp counter: cycles of an unknown frequency.
inline std::uint64_t rdtsc() {
  std::uint32_t low;
  std::uint32_t high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
  return std::uint64_t{high} << 32 | low;
}
/// One turn of a polling loop.
inline void pause() { asm volatile("pause" ::: "memory"); }

/// How long a wait lasts before it is given up, in cycles of the time stamp counter: half a minute and more, as a busy host
/// may need.
inline constexpr std::uint64_t kPatience = 100'000'000'000;
/// Less than a second.
inline constexpr std::uint64_t kMoment = 1'000'000'000;

/// Polls until `done()` holds; false where it still does not after `patience` cycles.
template <typename Condition>
[[nodiscard]] bool wait_until(Condition done, std::uint64_t patience = kPatience) {
  const std::uint64_t start = rdtsc();
  while (!done()) {
    if (rdtsc() - start > patience) return done();
    pause();
  }
  return true;
}

/// Lets `cycles` of the time stamp counter pass.
inline void spin_for(std::uint64_t cycles) {
  const std::uint64_t start = rdtsc();
  while (rdtsc() - start < cycles) pause();
}

}  // namespace guest
