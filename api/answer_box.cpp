#include "api/answer_box.h"

#include <sys/eventfd.h>

#include <memory>
#include <utility>

namespace mayfly {

Result<std::shared_ptr<AnswerBox>> AnswerBox::create(std::size_t most) {
  OwnedFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!event) return fail_errno(ErrorKind::System, "cannot make an eventfd for the API");
  return std::make_shared<AnswerBox>(std::move(event), most);
}

AnswerBox::AnswerBox(OwnedFd event, std::size_t most) : event_(std::move(event)) { given_.reserve(most); }

void AnswerBox::wake() noexcept { ::eventfd_write(event_.get(), 1); }

void AnswerBox::give(std::uint64_t connection, Result<Answer> answer) noexcept {
  bool first = false;
  {
    const MutexLock lock{mutex_};
    first = given_.empty();
    given_.push_back({connection, std::move(answer)});
  }
  if (first) wake();
}

void AnswerBox::take(std::vector<Given>& answers) {
  answers.clear();
  const MutexLock lock{mutex_};
  answers.swap(given_);
}

}  // namespace mayfly
