// What a hostile page server can do to a machine that hands its memory over. Nothing of what it says is parsed (the
// protocol has no answer): what comes from outside are the connection's state, and what it does with the descriptor
// that it was given. Each byte of an input is one deed of the server's; whatever it does, the hand-over ends in time,
// says whether there are pages, leaves no descriptor behind, and all of the memory can be read afterwards.

#include "snapshot/page_server.h"
#include "snapshot/userfault.h"
#include "tests/fuzz/must.h"
#include "vmm/base/json_value.h"
#include "vmm/base/unix_socket.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>

namespace mayfly {
namespace {

constexpr PageServerPatience kPatience{.first_page_ms = 20, .after_hang_up_ms = 2};

/// A socket that listens, by a name that goes with the directory.
class Listener {
 public:
  Listener() {
    const sockaddr_un address = unix_address(path_);
    must(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    must(::listen(socket_.get(), 4) == 0);
  }
  ~Listener() {
    ::unlink(path_.c_str());
    ::rmdir(directory_.c_str());
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] int fd() const { return socket_.get(); }

 private:
  static std::string make_directory() {
    std::string name = "/dev/shm/page_server_fuzz.XXXXXX";
    must(::mkdtemp(name.data()) != nullptr);
    return name;
  }
  std::string directory_ = make_directory();
  std::string path_ = directory_ + "/socket";
  OwnedFd socket_{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
};

/// The server's end: does what the bytes say, then hangs up.
class Server {
 public:
  Server(int listener, std::span<const std::uint8_t> deeds) : listener_(listener), deeds_(deeds) {}

  void run() {
    pollfd waiting{.fd = listener_, .events = POLLIN, .revents = 0};
    if (::poll(&waiting, 1, 1000) != 1) return;
    connection_ = OwnedFd{::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC)};
    for (const std::uint8_t deed : deeds_) act(deed);
  }

 private:
  void act(std::uint8_t deed) {
    switch (deed % 12) {
      case 0:
        return connection_.reset();
      case 1:
      case 2:
        return receive(deed % 12 == 1 ? 4096 : 1 + deed / 12);
      case 3:
        (void)::shutdown(connection_.get(), deed / 12 % 3);
        return;
      case 4: {  // what nobody asked for
        const std::array<char, 32> junk{};
        (void)::send(connection_.get(), junk.data(), deed / 12U + 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        return;
      }
      case 5:
        return send_descriptor();
      case 6:
      case 7:
        return serve(deed);
      case 8:
        return give(UFFDIO_ZEROPAGE, deed);
      case 9:
        return wake_or_unregister(deed);
      case 10:
        return userfault_.reset();
      default:
        std::this_thread::sleep_for(std::chrono::microseconds{deed});
    }
  }

  void receive(std::size_t length) {
    std::array<char, 4096> text{};
    std::array<char, CMSG_SPACE(sizeof(int))> control{};
    iovec body{.iov_base = text.data(), .iov_len = std::min(length, text.size())};
    msghdr message{};
    message.msg_iov = &body;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    pollfd ready{.fd = connection_.get(), .events = POLLIN, .revents = 0};
    if (!connection_ || ::poll(&ready, 1, 10) != 1) return;
    const ssize_t count = ::recvmsg(connection_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (count <= 0) return;
    const std::string_view part{text.data(), static_cast<std::size_t>(count)};
    if (const cmsghdr* const header = CMSG_FIRSTHDR(&message); header != nullptr && header->cmsg_type == SCM_RIGHTS) {
      must(!userfault_);
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
      userfault_ = OwnedFd{fd};
      read_mappings(part);
    }
  }
  /// Of the message's begin, the first mapping.
  void read_mappings(std::string_view text) {
    if (!text.ends_with(']')) return;
    const auto json = parse_json(text, "it");
    must(json.has_value());
    const auto* mappings = std::get_if<JsonValue::Array>(&json->data);
    must(mappings != nullptr && !mappings->empty());
    const auto* first = std::get_if<JsonValue::Object>(&mappings->front().data);
    must(first != nullptr);
    for (const JsonMember& member : *first) {
      // Numbers that fit are signed.
      const auto* small = std::get_if<std::int64_t>(&member.value.data);
      const auto* large = std::get_if<std::uint64_t>(&member.value.data);
      must(small != nullptr || large != nullptr);
      const std::uint64_t value = small != nullptr ? static_cast<std::uint64_t>(*small) : *large;
      if (member.name == "base_host_virt_addr") base_ = value;
      if (member.name == "size") size_ = value;
    }
    must(base_ != 0 && size_ == kMiB);
  }
  void send_descriptor() {
    const OwnedFd mine{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
    (void)send_with_descriptor(connection_.get(), "\n", mine.get(), MSG_DONTWAIT);
  }
  /// Answers a fault, or gives the page before anybody asks.
  void serve(std::uint8_t deed) {
    if (deed % 12 == 6) {
      pollfd fault{.fd = userfault_.get(), .events = POLLIN, .revents = 0};
      if (!userfault_ || ::poll(&fault, 1, 5) != 1) return;
      uffd_msg event{};
      (void)::read(userfault_.get(), &event, sizeof event);
    }
    give(UFFDIO_COPY, deed / 16 == 0 ? std::uint8_t{0} : deed);
  }
  void give(unsigned long how, std::uint8_t page) {
    if (!userfault_ || base_ == 0) return;
    // Up to a few pages beyond the end.
    const std::uint64_t at = base_ + page * kGuestPageSize * (page > 128 ? 2U : 1U);
    if (how == UFFDIO_COPY) {
      alignas(kGuestPageSize) static const std::array<char, kGuestPageSize> kPage{'x'};
      uffdio_copy copy{};
      copy.dst = at;
      copy.src = reinterpret_cast<std::uintptr_t>(kPage.data());
      copy.len = kGuestPageSize;
      (void)::ioctl(userfault_.get(), UFFDIO_COPY, &copy);
    } else {
      uffdio_zeropage zero{};
      zero.range = {.start = at, .len = kGuestPageSize};
      (void)::ioctl(userfault_.get(), UFFDIO_ZEROPAGE, &zero);
    }
  }
  void wake_or_unregister(std::uint8_t deed) {
    if (!userfault_ || base_ == 0) return;
    uffdio_range range{.start = base_, .len = deed / 12 % 2 == 0 ? size_ : kGuestPageSize};
    (void)::ioctl(userfault_.get(), deed / 24 % 2 == 0 ? UFFDIO_WAKE : UFFDIO_UNREGISTER, &range);
  }

  int listener_;
  std::span<const std::uint8_t> deeds_;
  OwnedFd connection_;
  OwnedFd userfault_;
  std::uint64_t base_ = 0;
  std::uint64_t size_ = 0;
};

/// The lowest descriptor that is free tells whether one was left.
int lowest_free() {
  const OwnedFd fd{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
  must(static_cast<bool>(fd));
  return fd.get();
}

void play(std::span<const std::uint8_t> input) {
  static const Listener listener;
  const int free_before = lowest_free();
  {
    const auto memory = GuestMemory::create({.size_mib = 1});
    must(memory.has_value());
    std::thread peer{[&] { Server{listener.fd(), input}.run(); }};
    const auto began = std::chrono::steady_clock::now();
    const auto handed = hand_to_page_server(*memory, listener.path(), {}, kPatience);
    const auto took = std::chrono::steady_clock::now() - began;
    peer.join();
    must(took < std::chrono::seconds{5});
    must(handed || !handed.error().message.empty());
    // As the monitor does before it ends: nobody waits for a page that does not come.
    if (handed) stop_faults(handed->userfault, *memory);
    for (std::uint64_t at = 0; at < kMiB; at += kGuestPageSize) {
      const auto word = memory->load<std::uint8_t>(GuestAddress{at});
      must(word && (*word == 0 || *word == 'x'));
    }
  }
  must(lowest_free() == free_before);
}

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // More deeds than these take longer and say nothing new.
  mayfly::play({data, std::min<std::size_t>(size, 32)});
  return 0;
}
