#include "vmm/boot/command_line.h"

#include "vmm/boot/layout.h"
#include "vmm/config/configuration.h"

namespace mayfly {
namespace {

/// Where the argument "--" starts, or the line's end. Quotes hide blanks, as in Linux's next_arg().
std::size_t end_of_kernel_arguments(std::string_view line) noexcept {
  bool quoted = false;
  std::size_t argument = 0;
  for (std::size_t at = 0; at <= line.size(); ++at) {
    if (at < line.size() && line[at] == '"') quoted = !quoted;
    const bool blank = at == line.size() || (!quoted && (line[at] == ' ' || line[at] == '\t' || line[at] == '\n'));
    if (!blank) continue;
    if (line.substr(argument, at - argument) == "--") return argument;
    argument = at + 1;
  }
  return line.size();
}

}  // namespace

std::string virtio_mmio_argument(const VirtioMmioWindow& window) {
  if (window.size % 1024 == 0)
    return fmt::format("virtio_mmio.device={}K@{:#x}:{}", window.size / 1024, window.base.value, window.gsi);
  return fmt::format("virtio_mmio.device={:#x}@{:#x}:{}", window.size, window.base.value, window.gsi);
}

Result<std::string> compose_command_line(std::string_view boot_args, std::span<const std::string> additions) {
  const std::size_t end = end_of_kernel_arguments(boot_args);
  std::string line{boot_args.substr(0, end)};
  for (const std::string& addition : additions) {
    if (!line.empty() && line.back() != ' ') line += ' ';
    line += addition;
  }
  if (end < boot_args.size()) {
    if (!line.empty() && line.back() != ' ') line += ' ';
    line += boot_args.substr(end);
  }
  if (auto checked = check_command_line(line); !checked) return propagate(checked);
  return line;
}

Status check_command_line(std::string_view line) {
  if (line.size() > kMaximumCommandLine)
    return fail(ErrorKind::TooLarge,
                "the kernel command line has {} bytes with what the devices add; at most {} are allowed: shorten "
                "boot_args",
                line.size(), kMaximumCommandLine);
  if (const std::size_t at = line.find('\0'); at != std::string_view::npos)
    return fail(ErrorKind::InvalidArgument,
                "boot_args has a NUL byte at offset {}, where the kernel would stop reading; remove it", at);
  return {};
}

Status write_command_line(const GuestMemory& memory, std::string_view line) {
  if (auto checked = check_command_line(line); !checked) return checked;
  const GuestAddress end{layout::kCommandLine.value + line.size()};
  ensure(memory.write(layout::kCommandLine, std::as_bytes(std::span{line})) && memory.store(end, '\0'),
         "the command line lies outside guest memory");
  return {};
}

}  // namespace mayfly
