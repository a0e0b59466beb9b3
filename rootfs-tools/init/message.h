#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace mayfly::guest_init {

/// One message is one write, so that lines of several processes do not mix on the console.
class Message {
 public:
  Message() { *this << "mayfly-init: "; }
  Message& operator<<(std::string_view text);
  Message& operator<<(std::uint64_t number);
  /// Sends the line. A console that is gone is no reason to stop.
  void print();

 private:
  static constexpr std::size_t kLimit = 512;
  std::array<char, kLimit> text_;
  std::size_t length_ = 0;
};

void print_failure(std::string_view what, std::string_view name, int error);

/// The whole of a small file, cut at the buffer's end; nullopt with errno set where it cannot be opened.
std::optional<std::string_view> read_file(const char* path, std::span<char> buffer);

}  // namespace mayfly::guest_init
