#include "perf/series.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <limits>

namespace mayfly::perf {

double Series::quantile(double fraction) const {
  if (samples_.empty()) return std::numeric_limits<double>::quiet_NaN();
  std::vector<double> sorted = samples_;
  std::ranges::sort(sorted);
  const double place = fraction * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(std::floor(place));
  const auto above = std::min(below + 1, sorted.size() - 1);
  const double weight = place - static_cast<double>(below);
  return sorted[below] * (1 - weight) + sorted[above] * weight;
}

void print_table(const char* title, const char* unit, const std::vector<Series>& all) {
  std::printf("\n%-34s %5s %9s %9s %9s %9s %9s  (%s)\n", title, "n", "least", "10%", "median", "90%", "most", unit);
  for (const Series& series : all)
    std::printf("%-34s %5zu %9.3f %9.3f %9.3f %9.3f %9.3f\n", series.name().c_str(), series.count(), series.quantile(0),
                series.quantile(0.1), series.median(), series.quantile(0.9), series.quantile(1));
  std::fflush(stdout);
}

int benchmark_main(int argc, char** argv, const std::string& words,
                   const std::function<int(const std::vector<std::string>& paths, int rounds)>& run) {
  const auto count = static_cast<int>(std::ranges::count(words, ' ')) + 1;
  if (argc <= count) {
    std::fprintf(stderr, "usage: %s %s [ROUNDS]\n", argv[0], words.c_str());
    return 2;
  }
  try {
    return run({argv + 1, argv + 1 + count}, argc > count + 1 ? std::atoi(argv[count + 1]) : 41);  // NOLINT
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "perf: %s\n", failure.what());
    return 1;
  }
}

}  // namespace mayfly::perf
