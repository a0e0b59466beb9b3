// A page server such as users write: gives a restored machine its memory from a file, a page at each first touch. It
// knows the protocol, and nothing of the product's code.
//
//   page_server SOCKET MEMORY-FILE [WITHHELD-FROM WITHHELD-TO]
//
// Prints "listening" once it does, takes one machine, and serves it until it is killed. Pages of the file from
// WITHHELD-FROM on and before WITHHELD-TO, in bytes, it never gives: it prints "withheld" for each that is asked for.

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace {

void must(bool good, const char* what) {
  if (good) return;
  std::perror(what);
  ::_exit(1);
}

struct Region {
  std::uint64_t address;
  std::uint64_t size;
  std::uint64_t offset;
  std::uint64_t page_size;
};

struct Handover {
  std::vector<Region> regions;
  int userfault = -1;
};

std::uint64_t number_of(std::string_view object, const std::string& name) {
  const std::string key = '"' + name + "\":";
  const std::size_t at = object.find(key);
  must(at != std::string_view::npos, ("no " + name + " in the message").c_str());
  return std::strtoull(object.data() + at + key.size(), nullptr, 10);
}

std::vector<Region> parse(const std::string& text) {
  std::vector<Region> regions;
  for (std::size_t at = text.find('{'); at != std::string::npos; at = text.find('{', at + 1)) {
    const std::string_view object{text.data() + at, text.find('}', at) - at};
    regions.push_back({.address = number_of(object, "base_host_virt_addr"),
                       .size = number_of(object, "size"),
                       .offset = number_of(object, "offset"),
                       .page_size = number_of(object, "page_size")});
  }
  must(!regions.empty(), "no mapping in the message");
  return regions;
}

int await_connection(const char* path) {
  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  must(listener >= 0, "socket");
  must(::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0, "bind");
  must(::listen(listener, 1) == 0, "listen");
  std::puts("listening");
  std::fflush(stdout);
  const int connection = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  must(connection >= 0, "accept");
  ::close(listener);
  return connection;
}

Handover receive(int connection) {
  std::array<char, 65536> text{};
  std::array<char, CMSG_SPACE(sizeof(int))> control{};
  iovec body{.iov_base = text.data(), .iov_len = text.size()};
  msghdr message{};
  message.msg_iov = &body;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t count = ::recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
  if (count == 0) ::_exit(0);  // it thought better of it
  must(count > 0, "recvmsg");
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  must(header != nullptr && header->cmsg_type == SCM_RIGHTS, "no descriptor came with the message");
  Handover handover{.regions = parse({text.data(), static_cast<std::size_t>(count)})};
  std::memcpy(&handover.userfault, CMSG_DATA(header), sizeof handover.userfault);
  return handover;
}

const char* map_file(const char* path, const std::vector<Region>& regions) {
  const int file = ::open(path, O_RDONLY | O_CLOEXEC);
  must(file >= 0, path);
  struct stat status{};
  must(::fstat(file, &status) == 0, "fstat");
  const auto size = static_cast<std::uint64_t>(status.st_size);
  for (const Region& region : regions) must(region.offset + region.size <= size, "the memory file is too short");
  void* const bytes = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  must(bytes != MAP_FAILED, "mmap");
  ::close(file);
  return static_cast<const char*>(bytes);
}

/// Of the file.
struct Withheld {
  std::uint64_t from = 0;
  std::uint64_t to = 0;
};

void give_page(const Handover& handover, const char* memory, const Withheld& withheld, std::uint64_t address) {
  for (const Region& region : handover.regions) {
    if (address < region.address || address - region.address >= region.size) continue;
    const std::uint64_t page = address / region.page_size * region.page_size;
    const std::uint64_t offset = region.offset + (page - region.address);
    if (offset >= withheld.from && offset < withheld.to) {
      std::puts("withheld");
      std::fflush(stdout);
      return;
    }
    uffdio_copy copy{};
    copy.dst = page;
    copy.src = reinterpret_cast<std::uintptr_t>(memory + offset);
    copy.len = region.page_size;
    // Two may touch a page at once: the second finds it there.
    must(::ioctl(handover.userfault, UFFDIO_COPY, &copy) == 0 || errno == EEXIST, "UFFDIO_COPY");
    return;
  }
  must(false, "a fault outside the machine's memory");
}

[[noreturn]] void serve(const Handover& handover, const char* memory, const Withheld& withheld) {
  for (;;) {
    pollfd ready{.fd = handover.userfault, .events = POLLIN, .revents = 0};
    must(::poll(&ready, 1, -1) == 1, "poll");
    uffd_msg event{};
    const ssize_t count = ::read(handover.userfault, &event, sizeof event);
    if (count < 0 && errno == EAGAIN) continue;
    must(count == sizeof event, "read of the userfaultfd");
    if (event.event == UFFD_EVENT_PAGEFAULT) give_page(handover, memory, withheld, event.arg.pagefault.address);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<const char*> words{argv, argv + argc};
  if (words.size() != 3 && words.size() != 5)
    return std::fprintf(stderr, "usage: page_server SOCKET MEMORY-FILE [WITHHELD-FROM WITHHELD-TO]\n"), 2;
  Withheld withheld;
  if (words.size() == 5) withheld = {std::strtoull(words[3], nullptr, 0), std::strtoull(words[4], nullptr, 0)};
  // The connection stays open: a client of this protocol may take its end for the server's.
  const int connection = await_connection(words[1]);
  const Handover handover = receive(connection);
  serve(handover, map_file(words[2], handover.regions), withheld);
}
