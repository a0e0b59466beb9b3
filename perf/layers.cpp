// perf/run layers: from the request to load a machine to the answer, by how many layers its memory has: a base, and
// over it diffs whose pages lie here and there. Beside them what is merged of the longest chain. And what a part of an
// upper file costs that is mapped over the base, or copied in its place.

#include "perf/console_machine.h"
#include "perf/series.h"
#include "tests/support/child_process.h"
#include "vmm/memory/guest_memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

constexpr std::array kChains = {1U, 2U, 8U, 32U};
constexpr unsigned kMostLayers = kChains.back();
/// A diff has every third page of this, each a part of its own.
constexpr std::array kChangedMib = {1U, 4U};

/// A machine with tests/guests/survivor.cpp.
void boot(ConsoleMachine& machine, const std::string& guest, unsigned changed_mib) {
  machine.send("PUT", "/machine-config", R"({"vcpu_count": 1, "mem_size_mib": 128, "track_dirty_pages": true})");
  machine.send("PUT", "/boot-source",
               R"({"kernel_image_path": )" + in_quotes(guest) + R"(, "boot_args": "console=ttyS0 dirty_mib=)" +
                   std::to_string(changed_mib) + "\"}");
  machine.send("PUT", "/actions", R"({"action_type": "InstanceStart"})");
  machine.await("survivor ready");
}

/// The files of a base and of diffs over it.
class Chain {
 public:
  Chain(std::string monitor, const std::string& guest, unsigned changed_mib) : monitor_(std::move(monitor)) {
    ConsoleMachine machine{monitor_, socket()};
    boot(machine, guest, changed_mib);
    for (unsigned layer = 1; layer <= kMostLayers; ++layer) {
      if (layer > 1) {
        machine.type('r');
        machine.await("round " + std::to_string(layer - 1) + " ok");
      }
      machine.send("PATCH", "/vm", R"({"state": "Paused"})");
      machine.send("PUT", "/snapshot/create",
                   R"({"snapshot_type": ")" + std::string{layer == 1 ? "Full" : "Diff"} + R"(", "snapshot_path": )" +
                       in_quotes(file(layer, ".state")) + R"(, "mem_file_path": )" + in_quotes(file(layer, ".mem")) +
                       "}");
      machine.send("PATCH", "/vm", R"({"state": "Resumed"})");
    }
    merge();
  }

  /// Milliseconds from the request to its answer.
  double load(unsigned layers) {
    std::string paths;
    for (unsigned layer = 1; layer <= layers; ++layer)
      paths += (layer == 1 ? "" : ", ") + in_quotes(file(layer, ".mem"));
    return load_memory(layers, R"("backend_paths": [)" + paths + "]");
  }
  double load_merged() { return load_memory(kMostLayers, R"("backend_path": )" + in_quotes(scratch_.file("merged"))); }

 private:
  [[nodiscard]] std::string file(unsigned layer, const char* kind) const {
    return scratch_.file(std::to_string(layer) + kind);
  }
  std::string socket() { return scratch_.file("api" + std::to_string(sockets_++)); }

  double load_memory(unsigned layers, const std::string& memory) {
    const ConsoleMachine machine{monitor_, socket()};
    const std::string body = R"({"snapshot_path": )" + in_quotes(file(layers, ".state")) +
                             R"(, "resume_vm": true, "mem_backend": {"backend_type": "File", )" + memory + "}}";
    const double begin = now_us();
    machine.send("PUT", "/snapshot/load", body);
    return (now_us() - begin) / 1e3;
  }

  void merge() const {
    std::vector<std::string> words = {monitor_, "snapshot", "merge", "--base", file(1, ".mem")};
    for (unsigned layer = 2; layer <= kMostLayers; ++layer) {
      words.emplace_back("--diff");
      words.push_back(file(layer, ".mem"));
    }
    words.insert(words.end(), {"--output", scratch_.file("merged")});
    if (ChildProcess{words, {.err = STDERR_FILENO}}.wait() != 0) give_up("the chain does not merge");
  }

  std::string monitor_;
  ScratchDirectory scratch_;
  unsigned sockets_ = 0;
};

/// The loads of one chain, one series a length; and of what is merged of it.
std::vector<Series> measure(Chain& chain, int rounds) {
  std::vector<Series> loads;
  for (const unsigned layers : kChains)
    loads.emplace_back(std::to_string(layers) + (layers == 1 ? " file" : " layers"));
  Series merged{"merged"};
  for (const unsigned layers : kChains) chain.load(layers);  // all of it is in the page cache now
  chain.load_merged();
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < kChains.size(); ++i) loads[i].add(chain.load(kChains.at(i)));
    merged.add(chain.load_merged());
    std::fprintf(stderr, "\rround %d of %d", round + 1, rounds);
  }
  std::fprintf(stderr, "\r\033[K");
  loads.push_back(std::move(merged));
  return loads;
}

/// A file as long as the memory, with all of `parts`.
std::shared_ptr<OwnedFd> memory_file(const std::string& path, std::uint64_t size,
                                     const std::vector<MemoryLayers::Part>& parts) {
  auto file = std::make_shared<OwnedFd>(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!*file || ::ftruncate(file->get(), static_cast<off_t>(size)) != 0) give_up("cannot make " + path);
  const std::string content(kGuestPageSize, 'x');
  for (const MemoryLayers::Part& part : parts)
    if (::pwrite(file->get(), content.data(), content.size(), static_cast<off_t>(part.offset)) < 0)
      give_up("cannot write " + path);
  return file;
}

/// Microseconds a part, of parts of one page each.
void measure_parts(int rounds) {
  constexpr std::uint64_t kSizeMib = 1024;
  std::vector<Series> all;
  for (const std::uint64_t count : {256U, 1024U, 4096U, 16384U}) {
    std::vector<MemoryLayers::Part> parts;
    const std::uint64_t step = kSizeMib * kMiB / count;
    for (std::uint64_t i = 0; i < count; ++i)
      parts.push_back({.offset = i * step + kGuestPageSize, .length = kGuestPageSize, .file = 1});
    const ScratchDirectory scratch;
    const MemoryLayers layers{.files = {memory_file(scratch.file("base"), kSizeMib * kMiB, parts),
                                        memory_file(scratch.file("upper"), kSizeMib * kMiB, parts)},
                              .parts = parts};
    for (const std::size_t most_mapped : {parts.size(), std::size_t{0}}) {
      Series each{std::to_string(count) + (most_mapped == 0 ? " copied" : " mapped")};
      for (int round = 0; round < rounds; ++round) {
        const double begin = now_us();
        const auto memory = GuestMemory::map({.size_mib = kSizeMib}, layers, most_mapped);
        each.add((now_us() - begin) / static_cast<double>(count));
        if (!memory) give_up(memory.error().message);
      }
      all.push_back(std::move(each));
    }
  }
  print_table("a part of one page of an upper file, in 1 GiB", "us", all);
}

int run(const std::string& monitor, const std::string& guest, int rounds) {
  std::vector<std::vector<Series>> all;
  for (const unsigned mib : kChangedMib) {
    Chain chain{monitor, guest, mib};
    all.push_back(measure(chain, rounds));
    const std::string title =
        "load request to its answer, each diff with " + std::to_string(mib * 256 / 3) + " pages here and there";
    print_table(title.c_str(), "ms", all.back());
  }
  measure_parts(rounds);
  std::printf("\nchain8_ms=%.3f chain1_ms=%.3f\n", all[0][2].median(), all[0][0].median());
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR GUEST", [](const auto& paths, int rounds) {
    return mayfly::perf::run(paths[0], paths[1], rounds);
  });
}
