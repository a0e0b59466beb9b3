#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

/// Samples of the things that one benchmark compares, taken interleaved (A B A B), and their table.
///
///   std::vector<Series> all = {{"mayfly"}, {"floor"}};
///   for (int round = 0; round < rounds; ++round) { all[0].add(run_a()); all[1].add(run_b()); }
///   print_table("startup", "ms", all);
namespace mayfly::perf {

class Series {
 public:
  explicit Series(std::string name) : name_(std::move(name)) {}
  void add(double sample) { samples_.push_back(sample); }

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// The same samples under another name.
  [[nodiscard]] Series named(std::string name) const {
    Series other = *this;
    other.name_ = std::move(name);
    return other;
  }
  [[nodiscard]] std::size_t count() const noexcept { return samples_.size(); }
  /// The value below which `fraction` (0 to 1) of the samples lie; NaN without samples.
  [[nodiscard]] double quantile(double fraction) const;
  [[nodiscard]] double median() const { return quantile(0.5); }

 private:
  std::string name_;
  std::vector<double> samples_;
};

/// Prints one row a series: count, least, 10 %, median, 90 %, most.
void print_table(const char* title, const char* unit, const std::vector<Series>& all);

/// A benchmark's main: as many paths as `words` has (which names them in the usage), then how many rounds (41 unless
/// told). What `run` throws is told on standard error.
int benchmark_main(int argc, char** argv, const std::string& words,
                   const std::function<int(const std::vector<std::string>& paths, int rounds)>& run);

}  // namespace mayfly::perf
