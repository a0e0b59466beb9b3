#include "jailer/arguments.h"
#include "jailer/launch.h"

#include <fcntl.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <exception>

namespace mayfly::jailer {
namespace {

constexpr int kExitError = 1;

/// Whatever our caller has open would be open in the jail: a directory is a way out of it. Standard streams that are
/// closed would be taken over by the first files that we open.
bool tidy_descriptors() {
  if (::close_range(STDERR_FILENO + 1, UINT_MAX, 0) != 0) return false;
  int fd = -1;
  do {
    fd = ::open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  return fd >= 0 && ::close(fd) == 0;
}

struct Start {
  ProcessTime begin;

  Status operator()(const JailArguments& jail) const { return launch(jail, begin); }
  Status operator()(const CleanupArguments& jail) const { return clean_up(jail); }
  Status operator()(const PrintText& answer) const {
    std::fputs(answer.text.c_str(), stdout);
    return {};
  }
};

int run(int argc, char** argv) {
  const Start start{time_now()};
  if (!tidy_descriptors()) {
    std::perror("mayfly-jailer: cannot close what its caller has open");
    return kExitError;
  }
  const auto invocation = parse_jailer_arguments(argc, argv);
  const Status done = invocation ? std::visit(start, *invocation) : std::unexpected(invocation.error());
  if (done) return 0;
  std::fprintf(stderr, "mayfly-jailer: %s\n", done.error().message.c_str());
  return kExitError;
}

}  // namespace
}  // namespace mayfly::jailer

int main(int argc, char** argv) {
  try {
    return mayfly::jailer::run(argc, argv);
  } catch (const std::exception& failure) {  // no memory, no threads: nothing of ours throws
    std::fprintf(stderr, "mayfly-jailer: %s\n", failure.what());
    return mayfly::jailer::kExitError;
  }
}
