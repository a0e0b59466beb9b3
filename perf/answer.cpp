// perf/run answer: from the load request to the first answer of a Linux clone, and its answers afterwards, by how its
// memory comes in; beside a clone that goes back to its snapshot. To be run where Linux guests run: in the lab, or on hardware.

#include "perf/frozen_guest.h"
#include "perf/guest_counts.h"
#include "perf/linux_guest.h"
#include "perf/series.h"
#include "tests/support/aged_state.h"
#include "vmm/base/files.h"
#include "vmm/base/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace mayfly::perf {
namespace {

using namespace mayfly::testing;
namespace fs = std::filesystem;

constexpr unsigned kWarm = 10;
/// At its start a kernel puts work off, such as telling IPv6 of a link, and every clone does it that is saved before.
constexpr timespec kRest{.tv_sec = 15, .tv_nsec = 0};

constexpr std::uint64_t kMonth = 30 * 24 * 3600;

/// What the clone is asked.
enum class Question { Line, Page, Touch };
constexpr std::array kQuestions = {Question::Line, Question::Page, Question::Touch};

const char* name_of(Question question) {
  switch (question) {
    case Question::Line:
      return "line";
    case Question::Page:
      return "page";
    case Question::Touch:
      break;
  }
  return "16 MiB";
}

/// Milliseconds to the answer.
double ask(MayflyGuest& guest, Question question) {
  switch (question) {
    case Question::Line:
      return guest.ask("word");
    case Question::Page:
      return LinuxGuest::get_page();
    case Question::Touch:
      break;
  }
  return guest.run("cat /run/large >/dev/null");
}

/// Where the memory file is: a disk's file system, or one in memory with pages of 2 MiB, which perf/lab_guest mounts beside
/// the disk's.
enum class Place { Disk, Tmpfs, Hugetlbfs };

/// How memory comes in.
struct Way {
  const char* name;
  bool working_set = false;
  const char* huge_pages = "";
  bool cold = false;  ///< The files are not in the page cache.
  Place place = Place::Disk;
  bool month_old = false;  ///< The snapshot is made so much older: the guest's clock goes ahead by it.
  bool goes_back = false;  ///< A clone that has answered once and is taken back to its snapshot, instead of a load.
};
constexpr std::array kWays = {
    Way{.name = "lazy"},
    Way{.name = "working set", .working_set = true},
    Way{.name = "2 MiB pages", .huge_pages = "2M"},
    Way{.name = "lazy, cold", .cold = true},
    Way{.name = "working set, cold", .working_set = true, .cold = true},
    Way{.name = "tmpfs of 2 MiB", .place = Place::Tmpfs},
    Way{.name = "tmpfs of 2 MiB, working set", .working_set = true, .place = Place::Tmpfs},
    Way{.name = "hugetlbfs", .place = Place::Hugetlbfs},
    Way{.name = "lazy, a month old", .month_old = true},
    Way{.name = "taken back", .goes_back = true},
};
constexpr std::size_t kLazy = 0, kReplayed = 1, kCopied = 2, kTmpfsReplayed = 6, kHugetlbfs = 7, kMonthOld = 8,
                      kTakenBack = 9;

/// By a mapping, as hugetlbfs has no write().
void copy_mapped(const std::string& from, const std::string& to) {
  const OwnedFd source{::open(from.c_str(), O_RDONLY | O_CLOEXEC)};
  const OwnedFd target{::open(to.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
  const std::uintmax_t size = fs::file_size(from);
  if (!source || !target || ::ftruncate(target.get(), static_cast<off_t>(size)) != 0)
    give_up("cannot copy a memory file to " + to);
  const Mapping mapping{::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, target.get(), 0), size};
  if (!mapping || read_all_at(source.get(), mapping.bytes(), 0) != size) give_up("cannot fill " + to);
}

/// A warm guest's snapshot, and a working set for each question.
class Template {
 public:
  Template(const ScratchDirectory& scratch, const std::string& monitor, const LinuxFiles& files, unsigned vcpus)
      : scratch_(scratch),
        monitor_(monitor),
        disk_(files.disk),
        prefix_(fs::path{files.disk}.parent_path() / ("snapshot-" + std::to_string(vcpus))),
        beside_disk_(fs::path{files.disk}.parent_path().parent_path()) {
    {
      MayflyGuest guest{scratch, monitor};
      guest.boot(files, vcpus, "");
      for (const Question question : kQuestions)
        for (unsigned i = 0; i < 3; ++i) ask(guest, question);
      ::nanosleep(&kRest, nullptr);
      guest.save(prefix_);
    }
    fs::copy_file(prefix_ + ".state", month_old_ + ".state");
    age_state(month_old_ + ".state", kMonth);
    for (const Place place : {Place::Tmpfs, Place::Hugetlbfs}) copy_mapped(memory_at(Place::Disk), memory_at(place));
    for (const Question question : kQuestions) {
      MayflyGuest guest{scratch, monitor};
      guest.load(prefix_, {.working_set = "Record", .set_path = set_of(question)});
      ask(guest, question);
      guest.must("PUT", "/actions", R"({"action_type": "FinishWorkingSet"})");
    }
  }
  Template(const Template&) = delete;
  Template& operator=(const Template&) = delete;
  ~Template() {
    std::error_code ignored;
    for (const std::string& prefix : {prefix_, month_old_}) fs::remove(prefix + ".state", ignored);
    for (const Place place : {Place::Disk, Place::Tmpfs, Place::Hugetlbfs}) fs::remove(memory_at(place), ignored);
    for (const Question question : kQuestions) fs::remove(set_of(question), ignored);
  }

  struct Answers {
    double load = 0;   ///< Or the way back.
    double first = 0;  ///< From that request on.
    Series warm{"warm"};
    Counts counts;  ///< Until the first answer, the load's included.
  };
  [[nodiscard]] Answers clone(const Way& way, Question question) const {
    if (way.cold) drop_from_page_cache({prefix_ + ".state", prefix_ + ".mem", set_of(question)});
    MayflyGuest guest{scratch_, monitor_};
    Answers answers;
    MayflyGuest::LoadOptions options{.working_set = way.working_set ? "Replay" : "",
                                     .set_path = way.working_set ? set_of(question) : "",
                                     .huge_pages = way.huge_pages,
                                     .memory_path = memory_at(way.place)};
    const ScratchDirectory overlays{disk_.parent_path()};
    if (way.goes_back) {
      options.disk = disk_;
      options.overlay = overlays.file("overlay");
      guest.load(prefix_, options);
      ask(guest, question);
    }
    const Counts before = counts_of(guest);
    answers.load = way.goes_back ? guest.revert() : guest.load(way.month_old ? month_old_ : prefix_, options);
    answers.first = answers.load + ask(guest, question);
    answers.counts = counts_of(guest) - before;
    for (unsigned i = 0; i < kWarm; ++i) answers.warm.add(ask(guest, question));
    return answers;
  }

 private:
  [[nodiscard]] std::string set_of(Question question) const {
    return prefix_ + "." + std::to_string(static_cast<int>(question)) + ".set";
  }
  [[nodiscard]] std::string memory_at(Place place) const {
    if (place == Place::Disk) return prefix_ + ".mem";
    return beside_disk_ / (place == Place::Tmpfs ? "huge" : "hugetlb") / "memory";
  }
  const ScratchDirectory& scratch_;
  std::string monitor_;
  fs::path disk_;
  std::string prefix_;
  std::string month_old_ = prefix_ + "-month-old";  ///< The prefix of another state, for the same memory.
  fs::path beside_disk_;
};

/// Samples of one way and question.
struct Samples {
  Series load{"load"}, first{"first"}, warm{"warm"};
  Counts counts;
};
using Results = std::map<std::pair<std::size_t, Question>, Samples>;

void print(const std::string& title, const Results& results) {
  std::printf("\n%-38s %8s %8s %8s %8s %8s %8s %8s\n", title.c_str(), "load ms", "first ms", "warm ms", "guest f.",
              "host f.", "exits", "switches");
  for (const auto& [key, samples] : results) {
    const std::string name = std::string{kWays[key.first].name} + ", " + name_of(key.second);
    std::printf("%-38s %8.2f %8.2f %8.2f %8.0f %8.0f %8.0f %8.0f\n", name.c_str(), samples.load.median(),
                samples.first.median(), samples.warm.median(), samples.counts.guest_faults, samples.counts.host_faults,
                samples.counts.exits, samples.counts.switches);
  }
}

/// A table a question, which perf/charts draws.
void print_first_answers(const Results& results) {
  for (const Question question : kQuestions) {
    std::vector<Series> all;
    for (std::size_t way = 0; way < kWays.size(); ++way)
      all.push_back(results.at({way, question}).first.named(kWays[way].name));
    std::printf("\n");
    print_table((std::string{"load request to first answer: "} + name_of(question)).c_str(), "ms", all);
  }
}

int run(const std::vector<std::string>& monitors, const LinuxFiles& files, int rounds) {
  const ScratchDirectory scratch;
  std::map<std::pair<std::size_t, unsigned>, Results> all;
  for (const unsigned vcpus : {1U, 2U})
    for (std::size_t i = 0; i < monitors.size(); ++i) {
      const Template frozen{scratch, monitors[i], files, vcpus};
      Results& results = all[{i, vcpus}];
      for (int round = 0; round < rounds; ++round)
        for (std::size_t way = 0; way < kWays.size(); ++way)
          for (const Question question : kQuestions) {
            const Template::Answers answers = frozen.clone(kWays[way], question);
            Samples& samples = results[{way, question}];
            samples.load.add(answers.load);
            samples.first.add(answers.first);
            samples.warm.add(answers.warm.median());
            samples.counts = answers.counts;
          }
      std::fprintf(stderr, "answer: %s, %u vCPUs: done\n", monitors[i].c_str(), vcpus);
      print(monitors[i] + ", " + std::to_string(vcpus) + (vcpus == 1 ? " vCPU" : " vCPUs"), results);
    }
  const Results& ours = all.at({0, 1});
  print_first_answers(ours);
  const Samples& line = ours.at({kLazy, Question::Line});
  const Samples& page = ours.at({kLazy, Question::Page});
  const auto first = [&](std::size_t way, Question question) { return ours.at({way, question}).first.median(); };
  std::printf(
      "answer: console_first_ms=%.2f console_warm_ms=%.2f http_first_ms=%.2f http_warm_ms=%.2f touch_first_ms=%.2f "
      "load_ms=%.2f http_first_set_ms=%.2f http_first_2m_ms=%.2f console_first_tmpfs_set_ms=%.2f "
      "http_first_tmpfs_set_ms=%.2f console_first_hugetlbfs_ms=%.2f http_first_hugetlbfs_ms=%.2f "
      "console_first_month_old_ms=%.2f console_first_back_ms=%.2f http_first_back_ms=%.2f\n",
      line.first.median(), line.warm.median(), page.first.median(), page.warm.median(), first(kLazy, Question::Touch),
      line.load.median(), first(kReplayed, Question::Page), first(kCopied, Question::Page),
      first(kTmpfsReplayed, Question::Line), first(kTmpfsReplayed, Question::Page), first(kHugetlbfs, Question::Line),
      first(kHugetlbfs, Question::Page), first(kMonthOld, Question::Line), first(kTakenBack, Question::Line),
      first(kTakenBack, Question::Page));
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) { return mayfly::perf::linux_benchmark_main(argc, argv, mayfly::perf::run); }
