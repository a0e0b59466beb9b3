// perf/run branch: from the request for a child of a running machine to the child's own answer, beside a bare fork of as
// much memory; what a hundred children that are alive at once take each; and a tree that is ten deep. The guest has touched
// 128 MiB (tests/guests/toucher.cpp) and rests.

#include "perf/console_machine.h"
#include "perf/series.h"
#include "tests/support/child_process.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;

constexpr unsigned kTouchedMib = 128;
constexpr int kChildren = 100;
constexpr int kDepth = 10;

/// A child of a machine, which ends with this.
class Child {
 public:
  Child(const ScratchDirectory& scratch, const std::string& id) : id_(id), socket_(scratch.file(id + ".sock")) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
  }
  [[nodiscard]] std::string json() const {
    return R"({"id": )" + in_quotes(id_) + R"(, "api_socket": )" + in_quotes(socket_) + "}";
  }
  /// As the answer has it; the child has answered then.
  void find_in(const HttpAnswer& answer) {
    const std::size_t at = answer.body.find(in_quotes(id_));
    const std::size_t pid = answer.body.find("\"pid\":", at);
    if (at == std::string::npos || pid == std::string::npos) give_up("no child " + id_ + ": " + answer.body);
    pid_ = static_cast<pid_t>(std::strtol(answer.body.c_str() + pid + 6, nullptr, 10));
    api_ = connect_unix(socket_);
    if (!answers()) give_up(id_ + " does not answer");
  }
  [[nodiscard]] HttpAnswer branch(const std::string& body) const {
    return exchange(api_.get(), "PUT", "/vm/branch", body);
  }
  [[nodiscard]] bool answers() const { return exchange(api_.get(), "GET", "/", "").status == 200; }
  /// Memory that no other process has, and the tables of the rest; in MiB.
  [[nodiscard]] double own_mib() const {
    const std::string process = "/proc/" + std::to_string(pid_);
    return (kib_of(process + "/smaps_rollup", {"Private_Clean:", "Private_Dirty:"}) +
            kib_of(process + "/status", {"VmPTE:"})) /
           1024;
  }

 private:
  static double kib_of(const std::string& path, const std::vector<std::string>& names) {
    std::ifstream file{path};
    double kib = 0;
    for (std::string line; std::getline(file, line);)
      for (const std::string& name : names)
        if (line.starts_with(name)) kib += std::strtod(line.c_str() + name.size(), nullptr);
    return kib;
  }
  std::string id_;
  std::string socket_;
  pid_t pid_ = -1;
  OwnedFd api_;
};

class Machine {
 public:
  Machine(const std::string& monitor, const std::string& guest, const char* pages)
      : machine_(monitor, scratch_.file("api"), {"--branches"}) {
    machine_.send("PUT", "/machine-config",
                  R"({"vcpu_count": 1, "mem_size_mib": 256, "huge_pages": )" + in_quotes(pages) + "}");
    machine_.send("PUT", "/boot-source",
                  R"({"kernel_image_path": )" + in_quotes(guest) + R"(, "boot_args": "console=ttyS0 span_mib=)" +
                      std::to_string(kTouchedMib) + " rest=1\"}");
    machine_.send("PUT", "/actions", R"({"action_type": "InstanceStart"})");
    machine_.await("toucher ready");
    api_ = connect_unix(scratch_.file("api"));
  }
  /// Milliseconds until a child has answered.
  double branch() {
    Child child{scratch_, "child-" + std::to_string(++made_)};
    const double begin = now_us();
    child.find_in(exchange(api_.get(), "PUT", "/vm/branch", R"({"children": [)" + child.json() + "]}"));
    return (now_us() - begin) / 1e3;
  }
  /// Of a monitor's own measure: how long the machine stood still.
  [[nodiscard]] double pause_ms() const {
    const std::string metrics = machine_.get("/metrics/prometheus");
    const std::string name = "\nmayfly_latencies_us_branch_pause ";
    return std::strtod(metrics.c_str() + metrics.find(name) + name.size(), nullptr) / 1e3;
  }
  struct Crowd {
    int alive = 0;
    double mib_each = 0;
    double ms = 0;
  };
  Crowd branch_many(int count) {
    std::vector<std::unique_ptr<Child>> children;
    std::string body = R"({"children": [)";
    for (int i = 0; i < count; ++i) {
      children.push_back(std::make_unique<Child>(scratch_, "crowd-" + std::to_string(i)));
      body += (i == 0 ? "" : ", ") + children.back()->json();
    }
    const double begin = now_us();
    const HttpAnswer answer = exchange(api_.get(), "PUT", "/vm/branch", body + "]}");
    Crowd crowd{.ms = (now_us() - begin) / 1e3};
    for (const auto& child : children) child->find_in(answer);
    for (const auto& child : children) {
      crowd.alive += child->answers() ? 1 : 0;
      crowd.mib_each += child->own_mib() / count;
    }
    return crowd;
  }
  /// Milliseconds of the last of a line of children, each of the one before.
  double branch_deep(int depth) {
    std::vector<std::unique_ptr<Child>> line;
    double ms = 0;
    for (int i = 0; i < depth; ++i) {
      auto child = std::make_unique<Child>(scratch_, "depth-" + std::to_string(i));
      const std::string body = R"({"children": [)" + child->json() + "]}";
      const double begin = now_us();
      child->find_in(line.empty() ? exchange(api_.get(), "PUT", "/vm/branch", body) : line.back()->branch(body));
      ms = (now_us() - begin) / 1e3;
      line.push_back(std::move(child));
    }
    return ms;
  }

 private:
  // Sockets are in memory, as those in /run are: a disk's journal holds up bind(2).
  ScratchDirectory scratch_{"/dev/shm"};
  ConsoleMachine machine_;
  OwnedFd api_;
  int made_ = 0;
};

/// As much memory as the guest has touched, and a fork until the child has said a word.
class Floor {
 public:
  explicit Floor(const char* pages)
      : memory_(::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (memory_ == MAP_FAILED) give_up("no memory");
    (void)::madvise(memory_, kSize, std::string{pages} == "None" ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    for (std::size_t at = 0; at < kSize; at += 4096) static_cast<volatile char*>(memory_)[at] = 1;
  }
  Floor(const Floor&) = delete;
  Floor& operator=(const Floor&) = delete;
  ~Floor() { ::munmap(memory_, kSize); }
  [[nodiscard]] double fork_ms() const {
    const Pipe pipe;
    const double begin = now_us();
    const pid_t child = ::fork();
    if (child == 0) {
      (void)!::write(pipe.write.get(), "", 1);
      ::_exit(0);
    }
    char word = 0;
    if (child < 0 || ::read(pipe.read.get(), &word, 1) != 1) give_up("no child");
    const double ms = (now_us() - begin) / 1e3;
    (void)::waitpid(child, nullptr, 0);
    return ms;
  }

 private:
  static constexpr std::size_t kSize = std::size_t{kTouchedMib} << 20;
  void* memory_;
};

int run(const std::string& monitor, const std::string& guest, int rounds) {
  constexpr const char* kPages[] = {"Transparent", "None"};
  std::vector<Series> answered, paused, floor, deep, each, many;
  int alive = kChildren;
  for (const char* const pages : kPages) {
    const std::string name = std::string{pages} == "None" ? "pages of 4 KiB" : "pages of 2 MiB";
    for (auto* const all : {&answered, &paused, &floor, &deep, &each, &many}) all->emplace_back(name);
    for (int round = 0; round < rounds; ++round) {
      Machine machine{monitor, guest, pages};
      const Floor bare{pages};
      for (int again = 0; again < 5; ++again) {
        answered.back().add(machine.branch());
        paused.back().add(machine.pause_ms());
        floor.back().add(bare.fork_ms());
      }
      deep.back().add(machine.branch_deep(kDepth));
      const Machine::Crowd crowd = machine.branch_many(kChildren);
      alive = std::min(alive, crowd.alive);
      each.back().add(crowd.mib_each);
      many.back().add(crowd.ms);
      std::fprintf(stderr, "\r%s: round %d of %d", name.c_str(), round + 1, rounds);
    }
    std::fprintf(stderr, "\r\033[K");
  }
  print_table("request for a child of a running machine until the child has answered", "ms", answered);
  print_table("the machine stands still meanwhile", "ms", paused);
  print_table("a bare fork of 128 MiB until the child has said a word", "ms", floor);
  print_table("the tenth of a line of children, each of the one before", "ms", deep);
  print_table("request for a hundred children to its answer", "ms", many);
  print_table("memory of its own of each of a hundred, page tables as well", "MiB", each);
  std::printf(
      "\nms=%.2f ms_4k=%.2f floor_ms=%.2f floor_4k_ms=%.2f children=%d alive=%d mib_each=%.2f mib_each_4k=%.2f "
      "depth10_ms=%.2f\n",
      answered[0].median(), answered[1].median(), floor[0].median(), floor[1].median(), kChildren, alive,
      each[0].median(), each[1].median(), deep[0].median());
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  return mayfly::perf::benchmark_main(argc, argv, "MONITOR TOUCHER", [](const auto& paths, int rounds) {
    return mayfly::perf::run(paths[0], paths[1], rounds);
  });
}
