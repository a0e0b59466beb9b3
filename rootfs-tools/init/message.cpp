#include "rootfs-tools/init/message.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace mayfly::guest_init {

Message& Message::operator<<(std::string_view text) {
  const std::size_t room = text_.size() - 1 - length_;  // one byte stays free for the line's end
  const std::size_t count = text.size() < room ? text.size() : room;
  std::memcpy(text_.data() + length_, text.data(), count);
  length_ += count;
  return *this;
}

Message& Message::operator<<(std::uint64_t number) {
  std::array<char, 20> digits;
  const char* end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
  return *this << std::string_view{digits.data(), static_cast<std::size_t>(end - digits.data())};
}

void Message::print() {
  text_[length_++] = '\n';
  for (std::size_t sent = 0; sent < length_;) {
    const ssize_t count = write(STDERR_FILENO, text_.data() + sent, length_ - sent);
    if (count <= 0 && errno != EINTR) return;
    if (count > 0) sent += static_cast<std::size_t>(count);
  }
}

void print_failure(std::string_view what, std::string_view name, int error) {
  (Message{} << what << " " << name << ": " << std::string_view{strerror(error)}).print();
}

std::optional<std::string_view> read_file(const char* path, std::span<char> buffer) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  std::size_t length = 0;
  while (length < buffer.size()) {
    const ssize_t count = read(fd, buffer.data() + length, buffer.size() - length);
    if (count <= 0) break;
    length += static_cast<std::size_t>(count);
  }
  close(fd);
  return std::string_view{buffer.data(), length};
}

}  // namespace mayfly::guest_init
