// mayfly-guest-agent: runs in a guest, and does what its host asks: commands, connections, copies of files.
//
//   mayfly-guest-agent [--address ADDRESS:PORT] [--run FILE]
//
// It dials the host (rootfs-tools/README.md has the picture), and serves each connection in a process of its own.

#include "rootfs-tools/agent/guest/dialer.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <limits>
#include <string>

namespace mayfly::agent {
namespace {

constexpr const char* kUsage =
    "Usage: mayfly-guest-agent [--address ADDRESS:PORT] [--run FILE] [--of-init]\n"
    "  --address   where the host answers (default: 169.254.169.254:1024)\n"
    "  --run FILE  how the image wants to be run; commands inherit its user,\n"
    "              environment and directory\n"
    "  --of-init   init started it, and may be told to power off\n";

struct Arguments {
  std::string address = "169.254.169.254:1024";
  std::string run_file{};
  bool of_init = false;
};

Result<Arguments> parse_arguments(int count, const char* const* words) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string name = words[i];
    if (name == "--of-init") {
      arguments.of_init = true;
      continue;
    }
    std::string* const value = name == "--address" ? &arguments.address
                               : name == "--run"   ? &arguments.run_file
                                                   : nullptr;
    if (value == nullptr || i + 1 == count)
      return fail(ErrorKind::InvalidArgument, "the argument {} is unknown, or lacks its value; see --help", name);
    *value = words[++i];
  }
  return arguments;
}

/// Only returns with an error.
Status run(int count, const char* const* words) {
  const auto arguments = TRY(parse_arguments(count, words));
  const auto address = TRY(parse_address(arguments.address));
  auto defaults = TRY(read_defaults(arguments.run_file));
  defaults.init_is_parent = arguments.of_init;
  // What the parent left open is not the commands'.
  ::close_range(STDERR_FILENO + 1, std::numeric_limits<unsigned>::max(), 0);
  dial_for_ever(address, defaults);
}

}  // namespace
}  // namespace mayfly::agent

int main(int count, char** words) {
  if (count == 2 && std::strcmp(words[1], "--help") == 0) return std::fputs(mayfly::agent::kUsage, stdout) == EOF;
  try {
    const auto ended = mayfly::agent::run(count, words);
    std::fprintf(stderr, "mayfly-guest-agent: %s\n", ended.error().message.c_str());
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "mayfly-guest-agent: %s\n", failure.what());
  }
  return 1;
}
