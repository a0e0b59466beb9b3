#include "rootfs-tools/agent/host/copy.h"

#include "rootfs-tools/agent/host/agent_client.h"
#include "vmm/base/held_signals.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace mayfly::agent {
namespace {

constexpr std::size_t kMostNotes = 100;  // a guest can make any number

void print_line(const std::string& text) { std::fputs(text.c_str(), stderr); }

/// What is said meanwhile, on standard error.
class CopyTalk {
 public:
  using Clock = std::chrono::steady_clock;

  void note(std::string_view sentence) {
    clear();
    if (++notes_ <= kMostNotes) print_line("mayfly: " + printable(sentence, kLongestShownMessage) + '\n');
  }
  void progress(const TreeCounts& counts) {
    const auto now = Clock::now();
    if (!is_terminal_ || now - begin_ < std::chrono::seconds{1} || now - last_ < std::chrono::milliseconds{200}) return;
    last_ = now;
    is_drawn_ = true;
    const auto seconds = std::chrono::duration<double>{now - begin_}.count();
    print_line(fmt::format("\r\033[K{} files, {} MiB ({:.1f} MiB/s)", counts.entries, counts.bytes >> 20,
                           static_cast<double>(counts.bytes >> 10) / 1024 / seconds));
  }
  void finish() {
    clear();
    if (notes_ > kMostNotes) print_line(fmt::format("mayfly: {} more were left out\n", notes_ - kMostNotes));
  }

 private:
  void clear() {
    if (std::exchange(is_drawn_, false)) print_line("\r\033[K");
  }

  bool is_terminal_ = ::isatty(STDERR_FILENO) == 1;
  bool is_drawn_ = false;
  std::size_t notes_ = 0;
  Clock::time_point begin_ = Clock::now();
  Clock::time_point last_ = begin_;
};

}  // namespace

CopySide parse_side(const std::string& text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos || text.find('/') < colon) return {.path = text};
  std::string path = text.substr(colon + 1);
  if (!path.starts_with('/')) path.insert(0, "/");
  return {.in_guest = true, .machine = text.substr(0, colon), .path = std::move(path)};
}

Status copy_files(const CopyRequest& request) {
  const CopySide source = parse_side(request.source);
  const CopySide destination = parse_side(request.destination);
  if (source.in_guest == destination.in_guest)
    return fail(
        ErrorKind::InvalidArgument,
        "one of '{}' and '{}' must be in a guest, as ID:PATH, and the other on this host (./NAME where it has a "
        "colon)",
        request.source, request.destination);
  const std::string& machine = source.in_guest ? source.machine : destination.machine;
  if (machine.empty() == request.agent_socket.empty())
    return fail(ErrorKind::InvalidArgument, "name the machine, as ID:PATH, or give --agent-socket and :PATH");
  const auto place = TRY(request.find(machine, request.agent_socket));
  // Undone before it ends us.
  const HeldSignals until_nothing_is_half{SIGINT, SIGTERM, SIGHUP};
  const OwnedFd interrupt = until_nothing_is_half.watch();
  const AgentClient agent{place.socket, {.process = place.process, .cancel = interrupt.get()}};
  CopyTalk talk;
  const TreeHooks hooks{.note = [&talk](std::string_view sentence) { talk.note(sentence); },
                        .progress = [&talk](const TreeCounts& counts) { talk.progress(counts); }};
  Status copied;
  if (source.in_guest) {
    auto counts = agent.get(source.path, destination.path, hooks);
    if (!counts) copied = propagate(counts);
  } else {
    copied = agent.put(source.path, destination.path, hooks);
  }
  talk.finish();
  return copied;
}

}  // namespace mayfly::agent
