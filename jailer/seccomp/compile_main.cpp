// Compiles system call filters from text to what `mayfly --seccomp-filter` reads, or to the source of the built-in
// ones.

#include "jailer/seccomp/blob.h"
#include "jailer/seccomp/compiler.h"
#include "jailer/seccomp/constants.h"

#include <seccomp.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>

#include <CLI/CLI.hpp>

namespace mayfly::seccomp {
namespace {

/// More numbers than x86-64 has calls.
constexpr int kMostCalls = 600;

struct Options {
  std::string text;
  std::string output;
  bool source = false;
  bool list = false;
};

std::string source_of(std::span<const std::byte> blob) {
  std::string text =
      "// Made by mayfly-seccompile.\n#include \"jailer/seccomp/built_in.h\"\n\n#include <array>\n\n"
      "namespace mayfly::seccomp {\nnamespace {\n\nalignas(8) constexpr unsigned char kBlob[] = {";
  for (const std::byte byte : blob) fmt::format_to(std::back_inserter(text), "{},", std::to_integer<unsigned>(byte));
  text += "};\n\nconstexpr std::string_view kCallNames =";
  std::string gap;  // numbers without a name, written only where a name follows
  for (int number = 0; number < kMostCalls; ++number) {
    if (number > 0) gap += "\\n";
    char* const name = ::seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number);
    if (name == nullptr) continue;
    fmt::format_to(std::back_inserter(text), "\n    \"{}{}\"", std::exchange(gap, {}), name);
    std::free(name);  // NOLINT(cppcoreguidelines-no-malloc): libseccomp's
  }
  return text +
         ";\n\n}  // namespace\n\n"
         "std::span<const std::byte> built_in_blob() noexcept { return std::as_bytes(std::span{kBlob}); }\n\n"
         "std::string_view built_in_call_names() noexcept { return kCallNames; }\n\n"
         "}  // namespace mayfly::seccomp\n";
}

/// One line an entry, in numbers, for tests that look for what is called: "THREAD LINE CALL rare|needed CONDITION..."
void print_entries(const FilterText& text) {
  const auto print = [](std::string_view thread, const Entry& entry) {
    std::string line = fmt::format("{} {} {} {}", thread, entry.line, entry.call, entry.rare ? "rare" : "needed");
    for (const Condition& each : entry.conditions) {
      const char* const kind = each.kind == Condition::Kind::Equals   ? "equals"
                               : each.kind == Condition::Kind::Within ? "within"
                                                                      : "own-process";
      fmt::format_to(std::back_inserter(line), " {}:{}:{}", each.argument, kind, each.value);
    }
    std::puts(line.c_str());
  };
  for (const Entry& entry : text.every) print("every", entry);
  for (const ThreadFilter& thread : text.threads)
    for (const Entry& entry : thread.entries) print(thread.name, entry);
}

Status write_file(const std::string& path, std::string_view content) {
  std::ofstream file{path, std::ios::binary | std::ios::trunc};
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  if (!file) return fail_errno(ErrorKind::System, "{} cannot be written", path);
  return {};
}

Result<std::string> read_file(const std::string& path) {
  std::ifstream file{path, std::ios::binary};
  if (!file) return fail_errno(ErrorKind::System, "{} cannot be opened", path);
  std::string text{std::istreambuf_iterator<char>{file}, {}};
  if (file.bad()) return fail_errno(ErrorKind::System, "{} cannot be read", path);
  return text;
}

Status run(const Options& options) {
  auto content = read_file(options.text);
  if (!content) return propagate(content);
  auto text = parse_filters(*content, constant_named);
  if (!text) return propagate(text, options.text);
  if (options.list) {
    print_entries(*text);
    return {};
  }
  auto compiled = compile_filters(*text);
  if (!compiled) return propagate(compiled, options.text);
  std::vector<NamedProgram> programs;
  for (const CompiledFilter& each : *compiled) {
    if (each.thread.size() >= sizeof BlobEntry{}.thread)
      return fail(ErrorKind::TooLarge, "{}: the name [{}] is too long", options.text, each.thread);
    programs.push_back({each.thread, each.program});
  }
  if (programs.size() > kMostFilters)
    return fail(ErrorKind::TooLarge, "{}: {} threads; {} are allowed", options.text, programs.size(), kMostFilters);
  const std::vector<std::byte> blob = make_blob(programs);
  // An error now, not when a monitor is started with it.
  if (auto usable = find_programs(blob); !usable) return propagate(usable, options.text);
  if (options.source) return write_file(options.output, source_of(blob));
  return write_file(options.output, {reinterpret_cast<const char*>(blob.data()), blob.size()});
}

int start(int argc, char** argv) {
  Options options;
  CLI::App app{"Compiles system call filters for mayfly --seccomp-filter.", "mayfly-seccompile"};
  app.add_option("filters", options.text, "The filters as text")->option_text("FILE REQUIRED")->required();
  CLI::Option* const list = app.add_flag("--list", options.list, "Print the lines in numbers, and compile nothing");
  app.add_option("-o,--output", options.output, "Where to write what the monitor reads")
      ->option_text("FILE")
      ->excludes(list);
  app.add_flag("--source", options.source, "Write C++ source, for the build of the monitor");
  app.set_version_flag("--version", "mayfly-seccompile v" MAYFLY_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& answer) {  // --help, --version
    return app.exit(answer);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "mayfly-seccompile: %s; see --help\n", error.what());
    return 1;
  }
  if (!options.list && options.output.empty()) {
    std::fputs("mayfly-seccompile: --output says where to write; see --help\n", stderr);
    return 1;
  }
  if (const auto done = run(options); !done) {
    std::fprintf(stderr, "mayfly-seccompile: %s\n", done.error().message.c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace mayfly::seccomp

int main(int argc, char** argv) {
  try {
    return mayfly::seccomp::start(argc, argv);
  } catch (const std::exception& failure) {  // no memory: nothing of ours throws
    std::fprintf(stderr, "mayfly-seccompile: %s\n", failure.what());
    return 1;
  }
}
