#pragma once

#include "vmm/base/owned_fd.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace mayfly {

/// A directory of its own for a test's files, removed with all that is in it.
class TestDirectory {
 public:
  TestDirectory() { EXPECT_NE(::mkdtemp(path_.data()), nullptr); }
  TestDirectory(const TestDirectory&) = delete;
  TestDirectory& operator=(const TestDirectory&) = delete;
  ~TestDirectory() { std::filesystem::remove_all(path_); }
  [[nodiscard]] std::string file(std::string_view name) const { return path_ + '/' + std::string{name}; }

 private:
  std::string path_ = "/tmp/mayfly-test-XXXXXX";
};

/// A client that sends what a test says, byte for byte, and waits for what must come, but not for ever.
class UnixClient {
 public:
  explicit UnixClient(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    connected_ = ::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }

  [[nodiscard]] bool connected() const { return connected_; }
  [[nodiscard]] int fd() const { return fd_.get(); }
  /// False where the server has hung up.
  bool send(std::string_view bytes) {
    return ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  void end_input() { ::shutdown(fd_.get(), SHUT_WR); }
  void hang_up() { fd_.reset(); }

  /// What has come when `end` is there; a failed test where it does not come.
  std::string receive_until(std::string_view end) {
    while (received_.find(end) == std::string::npos) {
      if (!receive_more()) {
        ADD_FAILURE() << "the connection ended, or nothing came, before \"" << end << "\": " << received_;
        return std::exchange(received_, {});
      }
    }
    const std::size_t length = received_.find(end) + end.size();
    std::string all = received_.substr(0, length);
    received_.erase(0, length);
    return all;
  }

  /// Everything up to the end of the connection; a failed test where it does not end.
  std::string receive_all() {
    while (receive_more()) {
    }
    EXPECT_TRUE(ended_) << "the connection did not end: " << received_;
    return std::exchange(received_, {});
  }

 private:
  static constexpr int kPatienceMs = 10'000;  // far beyond what any answer takes, under sanitizers too

  bool receive_more() {
    pollfd readable{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    if (::poll(&readable, 1, kPatienceMs) <= 0) return false;
    char buffer[4096];
    const ssize_t length = ::recv(fd_.get(), buffer, sizeof buffer, 0);
    if (length <= 0) ended_ = true;
    if (length > 0) received_.append(buffer, static_cast<std::size_t>(length));
    return length > 0;
  }

  OwnedFd fd_;
  bool connected_ = false;
  bool ended_ = false;
  std::string received_;
};

}  // namespace mayfly
