#pragma once

#include "runtime/virtio.h"

#include <array>
#include <cstdint>
#include <optional>

/// A small driver of a virtio network interface (virtio 1.2, 5.1): polling, no interrupts.
///
///   NetInterface interface{first_interface(), {.mergeable = true}};
///   for (;;) interface.echo();
///
/// It takes the guest's memory from 4 MiB to 32 MiB for queues and buffers.
namespace guest {

/// The number of the first virtio device that is a network interface; the guest fails where there is none.
[[nodiscard]] unsigned first_interface();

class NetInterface {
 public:
  struct Options {
    bool mergeable = true;          ///< Else each buffer holds the longest frame.
    bool unfinished = false;        ///< Frames without checksums and unsegmented ones, both ways.
    std::uint32_t buffer_size = 0;  ///< Of mergeable buffers; 0: 4096 bytes.
  };
  /// Resets the device, posts receive buffers and starts it.
  NetInterface(unsigned number, const Options& options);
  [[nodiscard]] const virtio::Device& device() const { return device_; }

  /// Sends every frame back that has come, whatever its size: the addresses swapped, the data where it was received.
  /// The number of frames.
  unsigned echo();
  /// Throws away what has come; the number of frames.
  unsigned sink();
  /// Offers a frame of `length` bytes at `address`, behind its header of kHeaderSize bytes, as often as descriptors
  /// are free; takes back what was sent. The number of frames that were sent since. Not to be mixed with echo().
  unsigned send(std::uint64_t address, std::uint32_t length, std::uint64_t at_most);
  /// Frames that were offered by send() and are not sent.
  [[nodiscard]] unsigned sending() const { return sending_; }

  static constexpr std::uint64_t kHeaderSize = 12;

 private:
  struct Frame {
    std::array<std::uint16_t, 64> buffers{};  // in their order
    std::uint16_t count = 0;
    std::uint32_t first_length = 0;  // bytes in the first buffer, header included
    std::uint32_t length = 0;        // bytes, without the header
  };

  [[nodiscard]] std::uint64_t address(std::uint16_t buffer) const;
  void post(std::uint16_t buffer);
  void post(Frame& frame);
  bool take_back();
  [[nodiscard]] std::optional<Frame> receive();
  void answer(const Frame& frame);

  virtio::Device device_;
  bool mergeable_;
  std::uint32_t buffer_size_;
  std::optional<virtio::Queue> receive_, transmit_;
  std::array<std::uint16_t, virtio::Queue::kSize> buffer_of_{};
  std::array<Frame, virtio::Queue::kSize> in_flight_{};
  std::uint64_t slot_ = 0;
  unsigned sending_ = 0;
};

}  // namespace guest
