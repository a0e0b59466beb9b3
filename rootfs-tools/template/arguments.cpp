#include "rootfs-tools/template/arguments.h"

#include "vmm/base/printable.h"
#include "vmm/base/text.h"
#include "vmm/base/try.h"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <utility>

#include <CLI/CLI.hpp>

namespace mayfly::image {
namespace {

constexpr std::string_view kUnits = "KMGT";
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 50;  // what a squashfs can be addressed by, with room to add

bool is_one_word(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > ' ' && c != 0x7F; });
}

/// What CLI11 fills and cannot fill in place.
struct Flags {
  std::string name;
  std::string config;
  std::string run_file;
  std::string platform = "linux/amd64";
  std::string max_size;
  std::string max_metadata;
  std::string layer_size = "1G";
  std::string ready_port;
  unsigned patience_s = 60;
  unsigned rest_s = 5;
};

void add_image(CLI::App& app, BaseOrder& order) {
  app.add_option("--image", order.image,
                 "What docker save or podman save wrote, or an OCI\nlayout: a tar archive or a directory")
      ->option_text("FILE REQUIRED")
      ->required();
}

void add_choice_and_limits(CLI::App& app, BaseOrder& order, Flags& flags) {
  app.add_option("--name", flags.name, "Which image, where there are several: a name or a\ndigest")
      ->option_text("NAME");
  app.add_option("--platform", flags.platform, "Which one of an image for several platforms\n(default: linux/amd64)")
      ->option_text("OS/ARCH");
  app.add_option("--max-size", flags.max_size, "Most bytes of unpacked layers, and of all files\n(default: 16G)")
      ->option_text("BYTES");
  const auto add_limit = [&](const char* name, std::uint64_t& limit, const char* text) {
    app.add_option(name, limit, text)
        ->option_text("COUNT")
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{std::numeric_limits<std::int32_t>::max()}));
  };
  add_limit("--max-files", order.limits.max_files, "Most entries of all layers (default: 1000000)");
  add_limit("--max-layers", order.limits.max_layers, "Most layers (default: 500)");
  add_limit("--max-ratio", order.limits.max_ratio,
            "Most bytes that one of a layer unpacks to, of what\nis over 64 MiB (default: 200)");
  app.add_option("--max-metadata", flags.max_metadata,
                 "Most bytes of names, links and extended attributes\n(default: 256M)")
      ->option_text("BYTES");
}

void add_base(CLI::App& app, BaseOrder& order, Flags& flags) {
  add_image(app, order);
  app.add_option("--output", order.output, "The base to make: a squashfs")->option_text("FILE REQUIRED")->required();
  app.add_option("--config", flags.config, "Where to write how the image wants to be run: JSON")->option_text("FILE");
  app.add_option("--run-file", flags.run_file, "Where to write the same for init and agent of\nguests")
      ->option_text("FILE");
  add_choice_and_limits(app, order, flags);
}

void add_build(CLI::App& app, BuildOrder& order, Flags& flags) {
  add_image(app, order.base);
  app.add_option("--output", order.output, "The template to make: a directory")
      ->option_text("DIRECTORY REQUIRED")
      ->required();
  add_choice_and_limits(app, order.base, flags);
  app.add_option("--cpus", order.vcpus, "vCPUs, 1 to 32")->capture_default_str()->check(CLI::Range(1U, 32U));
  app.add_option("--memory", order.memory_mib, "Memory in MiB")->capture_default_str();
  app.add_option("--disk", flags.layer_size, "What a clone may write to its file system\n(default: 1G)")
      ->option_text("BYTES");
  app.add_option("--ready-port", flags.ready_port,
                 "TCP port at which the function serves once it is\nready, or none (default: the first that the image\n"
                 "exposes)")
      ->option_text("PORT");
  app.add_option("--warm-up", order.warm_up, "Ask it for this path by HTTP before the snapshot")->option_text("PATH");
  app.add_option("--patience", flags.patience_s, "Seconds until it is ready and has answered")
      ->capture_default_str()
      ->check(CLI::Range(1U, 86'400U));
  app.add_option("--rest", flags.rest_s, "Seconds that it then rests until the snapshot")
      ->capture_default_str()
      ->check(CLI::Range(0U, 3'600U));
  app.add_option("--kernel", order.kernel,
                 "ELF vmlinux or bzImage (default: vmlinux beside\nthis program, or in ../libexec/mayfly)")
      ->option_text("FILE");
  app.add_option("--append", order.more_arguments, "Words to add to the kernel command line")->option_text("TEXT");
  app.add_option("--init", order.init, "mayfly-guest-init (default: as for the kernel)")->option_text("FILE");
  app.add_option("--agent", order.agent, "mayfly-guest-agent (default: the same)")->option_text("FILE");
  app.add_option("--monitor", order.monitor, "mayfly (default: the same)")->option_text("FILE");
}

using Text = std::pair<const char*, const std::string*>;

Status refuse_empty(const CLI::App& app, std::initializer_list<Text> texts) {
  for (const auto& [option, value] : texts)
    if (app.count(option) > 0 && value->empty())
      return fail(ErrorKind::InvalidArgument, "{} must not be empty; see mayfly-template {} --help", option,
                  app.get_name());
  return {};
}

Status read_image(BaseOrder& order, const Flags& flags, const CLI::App& app) {
  TRY(refuse_empty(app, {Text{"--image", &order.image}, Text{"--name", &flags.name}}));
  if (app.count("--name") > 0) order.name = flags.name;
  order.platform = TRY(parse_platform(flags.platform));
  if (app.count("--max-size") > 0) order.limits.max_bytes = TRY(parse_bytes("--max-size", flags.max_size));
  if (app.count("--max-metadata") > 0)
    order.limits.max_metadata_bytes = TRY(parse_bytes("--max-metadata", flags.max_metadata));
  return {};
}

Result<Invocation> base_of(BaseOrder order, const Flags& flags, const CLI::App& app) {
  TRY(read_image(order, flags, app));
  TRY(refuse_empty(
      app, {Text{"--output", &order.output}, Text{"--config", &flags.config}, Text{"--run-file", &flags.run_file}}));
  if (app.count("--config") > 0) order.config = flags.config;
  if (app.count("--run-file") > 0) order.run_file = flags.run_file;
  return order;
}

/// The first of the folders that has it; where none has, the first one's name for it, which the error names.
std::string find_program(const std::vector<std::string>& folders, const char* name) {
  for (const std::string& folder : folders)
    if (std::string path = folder + '/' + name; ::access(path.c_str(), R_OK) == 0) return path;
  return folders.front() + '/' + name;
}

Result<std::optional<std::uint16_t>> parse_port(std::string_view text) {
  if (text.empty()) return std::nullopt;
  if (text == "none") return 0;
  const auto port = whole_number<std::uint16_t>(text);
  if (port && *port != 0) return *port;
  return fail(ErrorKind::InvalidArgument, "--ready-port '{}' must be a port from 1 to 65535, or none",
              printable(std::string{text}, kLongestShownName));
}

Result<Invocation> build_of(BuildOrder order, const Flags& flags, const CLI::App& app,
                            const std::vector<std::string>& programs) {
  TRY(read_image(order.base, flags, app));
  TRY(refuse_empty(app, {Text{"--output", &order.output}, Text{"--kernel", &order.kernel}, Text{"--init", &order.init},
                         Text{"--agent", &order.agent}, Text{"--monitor", &order.monitor}}));
  if (!order.warm_up.empty() && (!order.warm_up.starts_with('/') || !is_one_word(order.warm_up)))
    return fail(ErrorKind::InvalidArgument, "--warm-up '{}' must be a path such as /, without blanks",
                printable(order.warm_up, kLongestShownName));
  order.layer_bytes = TRY(parse_bytes("--disk", flags.layer_size));
  order.ready_port = TRY(parse_port(flags.ready_port));
  order.patience = std::chrono::seconds{flags.patience_s};
  order.rest = std::chrono::seconds{flags.rest_s};
  if (order.kernel.empty()) order.kernel = find_program(programs, "vmlinux");
  if (order.init.empty()) order.init = find_program(programs, "mayfly-guest-init");
  if (order.agent.empty()) order.agent = find_program(programs, "mayfly-guest-agent");
  if (order.monitor.empty()) order.monitor = find_program(programs, "mayfly");
  return order;
}

}  // namespace

Result<std::uint64_t> parse_bytes(std::string_view option, std::string_view text) {
  std::string_view digits = text;
  unsigned shift = 0;
  if (!digits.empty())
    if (const auto unit = kUnits.find(digits.back()); unit != std::string_view::npos) {
      shift = 10 * (static_cast<unsigned>(unit) + 1);
      digits.remove_suffix(1);
    }
  const auto number = whole_number<std::uint64_t>(digits);
  if (!number || *number == 0 || *number > kMostBytes >> shift)
    return fail(ErrorKind::InvalidArgument, "{} '{}' must be a number of bytes up to 1024T, such as 512M or 16G",
                option, printable(text, kLongestShownName));
  return *number << shift;
}

Result<Invocation> parse_template_arguments(int argc, const char* const* argv,
                                            const std::vector<std::string>& programs) {
  CLI::App app{"Makes templates of machines from container images.", "mayfly-template"};
  app.set_version_flag("--version", "mayfly-template v" MAYFLY_VERSION);
  app.require_subcommand(1);
  BaseOrder base_order;
  BuildOrder build_order;
  Flags flags;
  CLI::App& base = *app.add_subcommand("base", "Make a read-only root file system of an image");
  add_base(base, base_order, flags);
  CLI::App& build = *app.add_subcommand("build", "Boot an image, and make a template of it");
  add_build(build, build_order, flags);
  VerifyOrder verify_order;
  CLI::App& verify = *app.add_subcommand("verify", "Compare a template's files with their digests");
  verify.add_option("template", verify_order.directory, "What mayfly-template build has made")
      ->option_text("TEMPLATE REQUIRED")
      ->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return PrintText{app.help()};
  } catch (const CLI::CallForVersion& version) {
    return PrintText{std::string{version.what()} + "\n"};
  } catch (const CLI::ParseError& error) {
    return fail(ErrorKind::InvalidArgument, "{} (see mayfly-template{} --help)", error.what(),
                base.parsed()     ? " base"
                : build.parsed()  ? " build"
                : verify.parsed() ? " verify"
                                  : "");
  }
  if (build.parsed()) return build_of(std::move(build_order), flags, build, programs);
  if (verify.parsed()) return verify_order;
  return base_of(std::move(base_order), flags, base);
}

}  // namespace mayfly::image
