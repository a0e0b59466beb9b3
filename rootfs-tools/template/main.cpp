#include "rootfs-tools/image/base.h"
#include "rootfs-tools/image/layer.h"
#include "rootfs-tools/template/arguments.h"
#include "rootfs-tools/template/progress_line.h"
#include "vmm/base/printable.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <vector>

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

/// Where this program is, and where an installation has what it does not run itself.
std::vector<std::string> program_folders() {
  std::error_code none;
  const auto folder = std::filesystem::read_symlink("/proc/self/exe", none).parent_path();
  return {folder, (folder / "../libexec/mayfly").lexically_normal()};
}

ProgressLine progress_on_terminal() { return ProgressLine{STDERR_FILENO, ::isatty(STDERR_FILENO) == 1}; }

auto shown_by(ProgressLine& line) {
  return [&line](std::string_view step, std::uint64_t done, std::uint64_t total) { line.show(step, done, total); };
}

struct Runner {
  Status operator()(const PrintText& answer) const {
    std::fputs(answer.text.c_str(), stdout);
    return {};
  }
  Status operator()(BuildOrder order) const {
    ProgressLine line = progress_on_terminal();
    order.base.on_progress = shown_by(line);
    order.on_step = [&line](std::string_view step) { line.say(step); };
    auto made = build_template(order);
    line.clear();
    if (!made) return propagate(made);
    const std::string sentence = fmt::format(
        "{}: {} with {} MiB of memory{}; start clones of it by mayfly up {}\n", made->directory,
        made->names.empty() ? made->image : made->names.front(), made->memory_mib,
        made->ready_port == 0 ? "" : fmt::format(", serving at port {}", made->ready_port), made->directory);
    std::fputs(printable_lines(sentence).c_str(), stdout);
    return {};
  }
  Status operator()(VerifyOrder order) const {
    ProgressLine line = progress_on_terminal();
    order.on_progress = shown_by(line);
    auto verified = verify_template(order);
    line.clear();
    if (!verified) return propagate(verified);
    const std::string sentence =
        fmt::format("{}: template.json and {} files are as they were built\n", verified->directory, verified->files);
    std::fputs(printable_lines(sentence).c_str(), stdout);
    return {};
  }
  Status operator()(BaseOrder order) const {
    ProgressLine line = progress_on_terminal();
    order.on_progress = shown_by(line);
    auto facts = make_base(order);
    line.clear();
    if (!facts) return propagate(facts);
    for (const std::string& each : facts->left_out_attributes)
      std::fprintf(stderr, "mayfly-template: left out the extended attribute '%s', which a squashfs cannot have\n",
                   each.c_str());
    if (facts->left_out_attributes.size() == kMostLeftOut)
      std::fputs("mayfly-template: further ones that were left out are not listed\n", stderr);
    std::fputs(printable_lines(sentence_of(order, *facts)).c_str(), stdout);
    return {};
  }
};

int run(int argc, char** argv) {
  std::signal(SIGCHLD, SIG_DFL);  // ignored, as some callers leave it, nobody would tell how children end
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error like a full disk
  auto invocation = parse_template_arguments(argc, argv, program_folders());
  // Which ends with lines of the guest's console.
  const bool has_lines = invocation && std::holds_alternative<BuildOrder>(*invocation);
  const Status done = invocation ? std::visit(Runner{}, std::move(*invocation)) : std::unexpected(invocation.error());
  if (done && std::fflush(stdout) == 0) return 0;
  if (done) return kExitError;
  const std::string& message = done.error().message;
  std::fprintf(stderr, "mayfly-template: %s\n",
               (has_lines ? printable_lines(message) : printable(message, std::string::npos)).c_str());
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
