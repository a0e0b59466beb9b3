#include "rootfs-tools/image/image_names.h"

#include "vmm/base/printable.h"

#include <algorithm>
#include <ranges>
#include <vector>

namespace mayfly::image {
namespace {

/// As Docker completes what users write (distribution/reference, ParseNormalizedNamed).
std::string whole_reference(std::string_view text) {
  std::string whole{text};
  const std::size_t slash = text.find('/');
  const std::string_view first = text.substr(0, slash);
  const bool has_registry =
      slash != std::string_view::npos && (first.contains('.') || first.contains(':') || first == "localhost");
  if (!has_registry) whole = (slash == std::string_view::npos ? "docker.io/library/" : "docker.io/") + whole;
  const std::size_t last = whole.rfind('/');
  if (whole.find_first_of(":@", last) == std::string::npos) whole += ":latest";
  return whole;
}

}  // namespace

Result<Platform> parse_platform(std::string_view text) {
  std::vector<std::string> parts;
  for (const auto range : std::views::split(text, '/')) parts.emplace_back(range.begin(), range.end());
  const auto is_wrong = [](const std::string& part) { return part.empty(); };
  if (parts.size() < 2 || parts.size() > 3 || std::ranges::any_of(parts, is_wrong))
    return fail(ErrorKind::InvalidArgument, "--platform '{}' must be OS/ARCHITECTURE, such as linux/amd64",
                printable(text, kLongestShownName));
  return Platform{.os = parts[0], .architecture = parts[1], .variant = parts.size() > 2 ? parts[2] : ""};
}

std::string to_text(const Platform& platform) {
  std::string text = platform.os + "/" + platform.architecture;
  if (!platform.variant.empty()) text += "/" + platform.variant;
  return printable(text, kLongestShownName);
}

bool fits(const Platform& offered, const Platform& wanted) {
  return offered.os == wanted.os && offered.architecture == wanted.architecture &&
         (wanted.variant.empty() || offered.variant == wanted.variant);
}

bool same_reference(std::string_view one, std::string_view other) {
  return one == other || whole_reference(one) == whole_reference(other);
}

}  // namespace mayfly::image
