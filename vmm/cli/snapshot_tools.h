#pragma once

#include <cstdio>
#include <span>
#include <string>

/// What the command line does with a snapshot's files without a machine. Each prints results to `out` and errors to
/// standard error, and returns the process's exit code.
namespace mayfly {

/// `mayfly --describe-snapshot FILE`: the state file as JSON, a line.
[[nodiscard]] int run_describe(const std::string& state, std::FILE* out);

/// `mayfly snapshot describe`: the same, and the layers of its memory. `memory`: the lowest layer first.
[[nodiscard]] int run_describe(const std::string& state, std::span<const std::string> memory, std::FILE* out);

/// `mayfly snapshot merge`: silent where it succeeds.
[[nodiscard]] int run_merge(const std::string& base, std::span<const std::string> diffs, const std::string& output);

/// `mayfly snapshot verify`: says what was found, and what a restore would want. `memory`: the lowest layer first.
[[nodiscard]] int run_verify(const std::string& state, std::span<const std::string> memory, std::FILE* out);

/// `mayfly snapshot sweep`: a line for each file that a killed monitor left, and what became of it.
[[nodiscard]] int run_sweep(std::span<const std::string> directories, bool dry_run, std::FILE* out);

}  // namespace mayfly
