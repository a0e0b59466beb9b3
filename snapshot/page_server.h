#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"
#include "vmm/memory/guest_memory.h"

#include <stop_token>
#include <string>

/// Guest memory whose pages another process gives at the first touch (userfaultfd(2)).
///
/// The page server listens on a Unix socket. It is sent one message: a JSON array of
/// {"base_host_virt_addr", "size", "offset", "page_size", "page_size_kib"} of this process's mappings, `offset` being
/// where the bytes are in the memory file, with the userfaultfd as ancillary data; then it answers faults until the
/// machine ends. The connection stays open until then, and nothing else is sent on it: its end tells the server that the
/// machine has ended. A server that dies leaves the guest waiting at its next new page.
namespace mayfly {

/// How long a server may take for its first page, and how long after it has hung up: it may still serve.
struct PageServerPatience {
  int first_page_ms = 30'000;
  int after_hang_up_ms = 1'000;
};

/// Both must live as long as the memory is used.
struct ServedMemory {
  OwnedFd userfault;
  OwnedFd connection;  ///< Its end tells the server that the machine has ended.
};

/// Hands `memory`, which must be anonymous and untouched, to the server at `socket_path`, and waits for a first page.
/// Any thread but one that others wait for. Errors: no userfaultfd on this host or no right to it, no process listens at
/// the socket, no page comes, a stop; then untouched memory is zeros.
[[nodiscard]] Result<ServedMemory> hand_to_page_server(const GuestMemory& memory, const std::string& socket_path,
                                                       const std::stop_token& stop = {},
                                                       const PageServerPatience& patience = {});

}  // namespace mayfly
