#pragma once

#include <cstdio>
#include <span>
#include <string>

/// What the command line does with the files of drives in layers, without a machine. Each prints results to `out` and
/// errors to standard error, and returns the process's exit code. No machine may write the files meanwhile.
namespace mayfly {

/// `mayfly drive info`: of each overlay its drive, what it has, and what it lies over. `as_json`: an array, a line.
[[nodiscard]] int run_drive_info(std::span<const std::string> overlays, bool as_json, std::FILE* out);

/// `mayfly drive export`: a raw image of what a guest sees of `overlay` over `bases`, the lowest first; silent where it
/// succeeds. `output` must not be there. Holes take no space.
[[nodiscard]] int run_drive_export(std::span<const std::string> bases, const std::string& overlay,
                                   const std::string& output);

/// `mayfly drive commit`: the topmost of `bases` is replaced by a file that has what `overlay` has as well, and the overlay is
/// removed. Nobody may have either open, and what lies over either is refused from then on. Nothing has changed where it fails,
/// or is killed, before the new file has its name.
[[nodiscard]] int run_drive_commit(std::span<const std::string> bases, const std::string& overlay);

}  // namespace mayfly
