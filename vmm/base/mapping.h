#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace mayfly {

/// A range of this process's address space that is unmapped exactly once. Move-only.
class Mapping {
 public:
  Mapping() noexcept = default;
  /// Takes over what mmap returned; MAP_FAILED makes an empty mapping (errno is the caller's to read).
  Mapping(void* address, std::size_t length) noexcept
      : address_(address == MAP_FAILED ? nullptr : address), length_(address == MAP_FAILED ? 0 : length) {}
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), length_(std::exchange(other.length_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      reset();
      address_ = std::exchange(other.address_, nullptr);
      length_ = std::exchange(other.length_, 0);
    }
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { reset(); }

  [[nodiscard]] explicit operator bool() const noexcept { return address_ != nullptr; }
  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {static_cast<std::byte*>(address_), length_}; }
  [[nodiscard]] void* address() const noexcept { return address_; }
  [[nodiscard]] std::size_t length() const noexcept { return length_; }
  [[nodiscard]] bool contains(const std::byte* at) const noexcept {
    // As numbers: pointers into different mappings have no order.
    return reinterpret_cast<std::uintptr_t>(at) - reinterpret_cast<std::uintptr_t>(address_) < length_;
  }
  void reset() noexcept {
    if (address_ != nullptr) ::munmap(std::exchange(address_, nullptr), std::exchange(length_, 0));
  }

 private:
  void* address_ = nullptr;
  std::size_t length_ = 0;
};

}  // namespace mayfly
