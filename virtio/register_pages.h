#pragma once

#include "vmm/base/error.h"
#include "vmm/base/mapping.h"

#include <cstddef>
#include <span>

/// The registers of a machine's virtio devices, as guests read them: a page for each window (virtio 1.2, 4.2.2).
///
///   auto pages = RegisterPages::create(windows.size());
///   vm.map_read_only(windows.front().base, pages->bytes());        // one slot for all windows
///   MmioTransport::create(device, {.registers = pages->page(0), ...});
///
/// KVM maps them read-only, so a guest's loads do not leave it; its stores do. An interrupt's handler reads
/// InterruptStatus and acknowledges: that was two exits to user space for each interrupt, and is none (VirtioDevices).
namespace mayfly {

inline constexpr std::size_t kMmioWindowSize = 0x1000;
using RegisterPage = std::span<std::byte, kMmioWindowSize>;

class RegisterPages {
 public:
  /// Pages of zeroes. Error: the host gives no memory.
  [[nodiscard]] static Result<RegisterPages> create(std::size_t count);

  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return mapping_.bytes(); }
  [[nodiscard]] RegisterPage page(std::size_t index) const noexcept {
    return bytes().subspan(index * kMmioWindowSize).first<kMmioWindowSize>();
  }

 private:
  explicit RegisterPages(Mapping mapping) noexcept : mapping_(std::move(mapping)) {}
  Mapping mapping_;
};

}  // namespace mayfly
