#pragma once

#include "api/client/deadline.h"

#include <poll.h>

#include <expected>
#include <string>
#include <string_view>

/// A request to the function in a machine, and its answer.
///
///   auto answer = hand_over(http_request("GET / HTTP/1.1", ""), {.connection = ..., .machine = ..., ...});
///   if (!answer) switch (answer.error()) ...
///
/// The answer is as the function gave it, and whole: a machine that dies in the middle of one has given none.
namespace mayfly::host_agent {

/// Why there is no answer.
enum class Silence {
  Died,     ///< The machine's process has ended.
  Late,     ///< The deadline came first.
  Broken,   ///< Nobody listens in the machine, or what was said is no HTTP, or too long.
  Unasked,  ///< Whoever asked is gone.
};

struct Exchange {
  int connection;     ///< See CloneNetwork::socket(); or a socket that is_connected already, and does not block.
  int machine;        ///< The pidfd of its process.
  pollfd asker;       ///< What happens there when nobody waits for the answer any more.
  Deadline deadline;  ///< For all of it.
  Deadline connected_by = deadline;
  bool is_connected = false;
};

[[nodiscard]] std::expected<std::string, Silence> hand_over(std::string_view request, const Exchange& exchange);

/// As much of a request as a connection takes at once, while the machine stands still; what is left is for hand_over().
[[nodiscard]] std::string_view send_ahead(std::string_view request, int connection);

/// The connection alone, where that is made before there is a request.
[[nodiscard]] std::expected<void, Silence> connect_to_function(const Exchange& exchange);

/// A request of which the answer ends with the connection. `line`: as "POST /path HTTP/1.1".
[[nodiscard]] std::string http_request(std::string_view line, std::string_view body);

}  // namespace mayfly::host_agent
