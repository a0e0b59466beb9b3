#include "snapshot/page_server.h"

#include "snapshot/page_bitmaps.h"
#include "snapshot/userfault.h"
#include "vmm/base/json_writer.h"
#include "vmm/base/unix_socket.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <system_error>
#include <thread>

namespace mayfly {
namespace {

std::string describe_mappings(const GuestMemory& memory) {
  JsonWriter json;
  json.begin_array();
  for (const MemoryMapping& mapping : mappings_of(memory)) {
    json.begin_object();
    json.field("base_host_virt_addr", mapping.host_address);
    json.field("size", mapping.size);
    json.field("offset", mapping.offset);
    json.field("page_size", mapping.page_size);
    // Bytes too, whatever the name says: so the dialect's servers know it.
    json.field("page_size_kib", mapping.page_size);
    json.end_object();
  }
  json.end_array();
  return std::move(json).take();
}

/// Waits for a page on a thread of its own, since a server that is gone would block it for ever.
Status await_first_page(const OwnedFd& userfault, const GuestMemory& memory, int socket, const std::string& path,
                        const std::stop_token& stop, const PageServerPatience& patience) {
  const OwnedFd served{::eventfd(0, EFD_CLOEXEC)};
  const OwnedFd stopped{::eventfd(0, EFD_CLOEXEC)};
  if (!served || !stopped) return fail_errno(ErrorKind::System, "mem_backend: cannot make an event descriptor");
  std::thread look;
  try {
    look = std::thread{[&] {
      (void)*static_cast<const volatile char*>(memory.regions().front().mapping.address());
      (void)::eventfd_write(served.get(), 1);
    }};
  } catch (const std::system_error& error) {
    return fail(ErrorKind::System, "mem_backend: cannot start a thread: {}", error.code().message());
  }
  const std::stop_callback tell{stop, [&stopped] { (void)::eventfd_write(stopped.get(), 1); }};
  std::array<pollfd, 3> events{{{.fd = served.get(), .events = POLLIN, .revents = 0},
                                {.fd = stopped.get(), .events = POLLIN, .revents = 0},
                                {.fd = socket, .events = 0, .revents = 0}}};
  (void)::poll(events.data(), events.size(), patience.first_page_ms);
  if ((events[2].revents & POLLHUP) != 0) (void)::poll(events.data(), 2, patience.after_hang_up_ms);
  const bool good = (events[0].revents & POLLIN) != 0;
  if (!good) stop_faults(userfault, memory);
  look.join();
  if (good) return {};
  if (stop.stop_requested()) return fail(ErrorKind::State, "backend_path {}: the machine has ended", path);
  return fail(ErrorKind::System, "backend_path {}: the page server {} gives no page", path,
              (events[2].revents & POLLHUP) != 0 ? "has hung up and" : "has the memory, but");
}

}  // namespace

Result<ServedMemory> hand_to_page_server(const GuestMemory& memory, const std::string& socket_path,
                                         const std::stop_token& stop, const PageServerPatience& patience) {
  if (socket_path.size() > kLongestSocketPath)
    return fail(ErrorKind::InvalidArgument, "backend_path has {} bytes, and the kernel takes at most {}: {}",
                socket_path.size(), kLongestSocketPath, socket_path);
  const sockaddr_un address = unix_address(socket_path);
  OwnedFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (!socket) return fail_errno(ErrorKind::System, "mem_backend: cannot make a socket");
  // There may be no process to accept, or to read.
  const timeval longest{.tv_sec = patience.first_page_ms / 1000, .tv_usec = patience.first_page_ms % 1000 * 1000};
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &longest, sizeof longest) != 0)
    return fail_errno(ErrorKind::System, "mem_backend: cannot set a socket's time limit");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return fail_errno(ErrorKind::System, "backend_path {}: no page server to connect to", socket_path);
  auto userfault = watch_for_faults(memory, "mem_backend");
  if (!userfault) return propagate(userfault);
  if (!send_with_descriptor(socket.get(), describe_mappings(memory), userfault->get()))
    return fail_errno(ErrorKind::System, "backend_path {}: the page server does not take the memory", socket_path);
  if (auto served = await_first_page(*userfault, memory, socket.get(), socket_path, stop, patience); !served)
    return propagate(served);
  return ServedMemory{.userfault = std::move(*userfault), .connection = std::move(socket)};
}

}  // namespace mayfly
