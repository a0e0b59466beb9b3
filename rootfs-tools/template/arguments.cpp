#include "rootfs-tools/template/arguments.h"

#include "vmm/base/printable.h"
#include "vmm/base/text.h"
#include "vmm/base/try.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <CLI/CLI.hpp>

namespace mayfly::image {
namespace {

constexpr std::string_view kUnits = "KMGT";
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 50;  // what a squashfs can be addressed by, with room to add

/// What CLI11 fills and cannot fill in place.
struct Flags {
  std::string name;
  std::string config;
  std::string run_file;
  std::string platform = "linux/amd64";
  std::string max_size;
  std::string max_metadata;
};

void add_base(CLI::App& app, BaseOrder& order, Flags& flags) {
  app.add_option("--image", order.image,
                 "What docker save or podman save wrote, or an OCI\nlayout: a tar archive or a directory")
      ->option_text("FILE REQUIRED")
      ->required();
  app.add_option("--output", order.output, "The base to make: a squashfs")->option_text("FILE REQUIRED")->required();
  app.add_option("--config", flags.config, "Where to write how the image wants to be run: JSON")->option_text("FILE");
  app.add_option("--run-file", flags.run_file, "Where to write the same for init and agent of\nguests")
      ->option_text("FILE");
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

Result<Invocation> base_of(BaseOrder order, const Flags& flags, const CLI::App& app) {
  using Text = std::pair<const char*, const std::string*>;
  for (const auto& [option, value] :
       {Text{"--image", &order.image}, Text{"--output", &order.output}, Text{"--config", &flags.config},
        Text{"--run-file", &flags.run_file}, Text{"--name", &flags.name}})
    if (app.count(option) > 0 && value->empty())
      return fail(ErrorKind::InvalidArgument, "{} must not be empty; see mayfly-template base --help", option);
  if (app.count("--config") > 0) order.config = flags.config;
  if (app.count("--run-file") > 0) order.run_file = flags.run_file;
  if (app.count("--name") > 0) order.name = flags.name;
  order.platform = TRY(parse_platform(flags.platform));
  if (app.count("--max-size") > 0) order.limits.max_bytes = TRY(parse_bytes("--max-size", flags.max_size));
  if (app.count("--max-metadata") > 0)
    order.limits.max_metadata_bytes = TRY(parse_bytes("--max-metadata", flags.max_metadata));
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

Result<Invocation> parse_template_arguments(int argc, const char* const* argv) {
  CLI::App app{"Makes templates of machines from container images.", "mayfly-template"};
  app.set_version_flag("--version", "mayfly-template v" MAYFLY_VERSION);
  app.require_subcommand(1);
  BaseOrder order;
  Flags flags;
  CLI::App& base = *app.add_subcommand("base", "Make a read-only root file system of an image");
  add_base(base, order, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return PrintText{app.help()};
  } catch (const CLI::CallForVersion& version) {
    return PrintText{std::string{version.what()} + "\n"};
  } catch (const CLI::ParseError& error) {
    return fail(ErrorKind::InvalidArgument, "{} (see mayfly-template{} --help)", error.what(),
                base.parsed() ? " base" : "");
  }
  return base_of(std::move(order), flags, base);
}

}  // namespace mayfly::image
