#pragma once

#include <functional>
#include <utility>
#include <vector>

namespace mayfly::jailer {

/// Undoes the steps that were done, last first.
///
///   Undo undo;
///   if (::mkdirat(dir, name, 0755) == 0) undo.add([&] { ::unlinkat(dir, name, AT_REMOVEDIR); });
///   if (failed) undo.run();
class Undo {
 public:
  void add(std::move_only_function<void()> step) { steps_.push_back(std::move(step)); }
  void run() {
    for (; !steps_.empty(); steps_.pop_back()) steps_.back()();
  }

 private:
  std::vector<std::move_only_function<void()>> steps_;
};

}  // namespace mayfly::jailer
