#include "rootfs-tools/image/base.h"
#include "rootfs-tools/template/arguments.h"
#include "rootfs-tools/template/progress_line.h"
#include "vmm/base/printable.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>

#include <fmt/format.h>

namespace mayfly::image {
namespace {

constexpr int kExitError = 1;

std::string sentence_of(const BaseOrder& order, const BaseFacts& facts) {
  const auto mib = [](std::uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  return fmt::format("{}: {:.1f} MiB for {:.1f} MiB of {} files, {}, of {} {}\n", order.output, mib(facts.base_bytes),
                     mib(facts.data_bytes), facts.inodes, facts.base_digest,
                     facts.names.empty() ? "the image" : facts.names.front(), facts.image_digest);
}

struct Runner {
  Status operator()(const PrintText& answer) const {
    std::fputs(answer.text.c_str(), stdout);
    return {};
  }
  Status operator()(BaseOrder order) const {
    ProgressLine line{STDERR_FILENO, ::isatty(STDERR_FILENO) == 1};
    order.on_progress = [&line](std::string_view step, std::uint64_t done, std::uint64_t total) {
      line.show(step, done, total);
    };
    auto facts = make_base(order);
    line.clear();
    if (!facts) return propagate(facts);
    for (const std::string& each : facts->left_out_attributes)
      std::fprintf(stderr, "mayfly-template: left out the extended attribute '%s', which a squashfs cannot have\n",
                   each.c_str());
    std::fputs(printable_lines(sentence_of(order, *facts)).c_str(), stdout);
    return {};
  }
};

int run(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error like a full disk
  auto invocation = parse_template_arguments(argc, argv);
  const Status done = invocation ? std::visit(Runner{}, std::move(*invocation)) : std::unexpected(invocation.error());
  if (done && std::fflush(stdout) == 0) return 0;
  if (!done) std::fprintf(stderr, "mayfly-template: %s\n", printable(done.error().message, std::string::npos).c_str());
  return kExitError;
}

}  // namespace
}  // namespace mayfly::image

int main(int argc, char** argv) {
  try {
    return mayfly::image::run(argc, argv);
  } catch (const std::exception& failure) {  // no memory, no threads: nothing of ours throws
    std::fprintf(stderr, "mayfly-template: %s\n", failure.what());
    return mayfly::image::kExitError;
  }
}
