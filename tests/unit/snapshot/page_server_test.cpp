#include "snapshot/page_server.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <future>
#include <thread>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using testing::open_descriptors;
using testing::ScratchDirectory;

/// A server's end of the protocol.
class Listener {
 public:
  explicit Listener(const std::string& path) : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path);
    // A path of the greatest length has no room for a zero behind it.
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
    if (!socket_ || ::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
        ::listen(socket_.get(), 1) != 0)
      testing::give_up("cannot listen on " + path);
  }
  [[nodiscard]] OwnedFd accept() const { return OwnedFd{::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)}; }

 private:
  OwnedFd socket_;
};

struct Received {
  std::string text;
  OwnedFd userfault;
};

Received receive(const OwnedFd& connection) {
  std::array<char, 4096> text{};
  std::array<char, CMSG_SPACE(sizeof(int))> control{};
  iovec body{.iov_base = text.data(), .iov_len = text.size()};
  msghdr message{};
  message.msg_iov = &body;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t count = ::recvmsg(connection.get(), &message, MSG_CMSG_CLOEXEC);
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (count < 0 || header == nullptr || header->cmsg_type != SCM_RIGHTS) return {};
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return {{text.data(), static_cast<std::size_t>(count)}, OwnedFd{fd}};
}

/// What every word of every served page says.
constexpr std::uint64_t kWord = 0x0123'4567'89AB'CDEF;

/// A server on a thread of its own, until it goes out of scope.
class Server {
 public:
  enum class Connection { Kept, Closed };
  explicit Server(const std::string& path, Connection after = Connection::Kept)
      : listener_(path), thread_([this, after] { run(after); }) {}
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server() {
    (void)::eventfd_write(stop_.get(), 1);
    thread_.join();
  }
  /// What it was told; waits for that.
  [[nodiscard]] std::string text() const { return text_.get(); }

 private:
  void run(Connection after) {
    std::array<pollfd, 2> events{{{.fd = stop_.get(), .events = POLLIN, .revents = 0}, {}}};
    OwnedFd connection = listener_.accept();
    received_ = receive(connection);
    told_.set_value(received_.text);
    if (after == Connection::Closed) connection.reset();
    events[1] = {.fd = received_.userfault.get(), .events = POLLIN, .revents = 0};
    while (::poll(events.data(), events.size(), -1) > 0 && events[0].revents == 0) {
      uffd_msg event{};
      if (::read(received_.userfault.get(), &event, sizeof event) != static_cast<ssize_t>(sizeof event)) continue;
      uffdio_copy copy{};
      copy.dst = event.arg.pagefault.address / kGuestPageSize * kGuestPageSize;
      copy.src = reinterpret_cast<std::uintptr_t>(page_.data());
      copy.len = page_.size() * 8;
      (void)::ioctl(received_.userfault.get(), UFFDIO_COPY, &copy);
    }
  }

  std::array<std::uint64_t, kGuestPageSize / 8> page_ = [] {
    std::array<std::uint64_t, kGuestPageSize / 8> page;
    page.fill(kWord);
    return page;
  }();
  OwnedFd stop_{::eventfd(0, EFD_CLOEXEC)};
  Listener listener_;
  Received received_;
  std::promise<std::string> told_;
  std::shared_future<std::string> text_{told_.get_future()};
  std::thread thread_;
};

GuestMemory memory_of(std::uint64_t size_mib) {
  auto memory = GuestMemory::create({.size_mib = size_mib});
  EXPECT_TRUE(memory) << memory.error().message;
  return std::move(*memory);
}

std::string address_of(const GuestMemory::Region& region) {
  return std::to_string(reinterpret_cast<std::uintptr_t>(region.mapping.address()));
}

class PageServer : public ::testing::Test {
 protected:
  void expect_refused(const GuestMemory& memory, const std::string& path, const std::string& words) {
    const std::size_t before = open_descriptors();
    const auto handed = hand_to_page_server(memory, path);
    ASSERT_FALSE(handed);
    EXPECT_NE(handed.error().message.find(words), std::string::npos) << handed.error().message;
    EXPECT_LE(open_descriptors(), before);  // the server's thread may let go of its own meanwhile
  }

  ScratchDirectory scratch_;
};

/// Where this process may have a userfaultfd.
class PageServerThatListens : public PageServer {
 protected:
  void SetUp() override {
    if (::access("/dev/userfaultfd", R_OK | W_OK) == 0) return;
    if (!OwnedFd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC))})
      GTEST_SKIP() << "userfaultfd is not permitted";
  }
};

TEST_F(PageServerThatListens, IsToldOfEachRegionInTheDialectsWords) {
  const GuestMemory memory = memory_of(3400);
  ASSERT_EQ(memory.regions().size(), 2U);
  const Server server{scratch_.file("pages")};
  const auto handed = hand_to_page_server(memory, scratch_.file("pages"));
  ASSERT_TRUE(handed) << handed.error().message;
  EXPECT_EQ(server.text(), R"([{"base_host_virt_addr":)" + address_of(memory.regions()[0]) +
                               R"(,"size":3489660928,"offset":0,"page_size":4096,"page_size_kib":4096},)"
                               R"({"base_host_virt_addr":)" +
                               address_of(memory.regions()[1]) +
                               R"(,"size":75497472,"offset":3489660928,"page_size":4096,"page_size_kib":4096}])");
}

TEST_F(PageServerThatListens, GivesThePagesThatAreTouched) {
  const GuestMemory memory = memory_of(4);
  const Server server{scratch_.file("pages")};
  const auto handed = hand_to_page_server(memory, scratch_.file("pages"));
  ASSERT_TRUE(handed) << handed.error().message;
  for (const std::uint64_t at : {std::uint64_t{0}, 5 * kGuestPageSize + 8, 4 * kMiB - 8})
    EXPECT_EQ(memory.load<std::uint64_t>(GuestAddress{at}), kWord);
}

TEST_F(PageServerThatListens, MayServeOnWithoutTheConnection) {
  const GuestMemory memory = memory_of(4);
  const Server server{scratch_.file("pages"), Server::Connection::Closed};
  const auto handed = hand_to_page_server(memory, scratch_.file("pages"));
  ASSERT_TRUE(handed) << handed.error().message;
  EXPECT_EQ(memory.load<std::uint64_t>(GuestAddress{kMiB}), kWord);
}

TEST_F(PageServerThatListens, HasThePathOfGreatestLength) {
  const std::string directory = scratch_.file("");
  const std::string path = directory + std::string(107 - directory.size(), 's');
  const GuestMemory memory = memory_of(1);
  const Server server{path};
  const auto handed = hand_to_page_server(memory, path);
  EXPECT_TRUE(handed) << handed.error().message;
}

TEST_F(PageServerThatListens, IsRefusedWhereItHangsUpAtOnce) {
  const Listener listener{scratch_.file("pages")};
  const GuestMemory memory = memory_of(1);
  const auto server = std::async(std::launch::async, [&] { listener.accept().reset(); });
  // Before or after it was sent the message.
  expect_refused(memory, scratch_.file("pages"), "backend_path " + scratch_.file("pages") + ": the page server ");
  server.wait();
}

TEST_F(PageServerThatListens, IsRefusedWhereItHangsUpAfterTheMessage) {
  const Listener listener{scratch_.file("pages")};
  const GuestMemory memory = memory_of(1);
  const auto server = std::async(std::launch::async, [&] { EXPECT_TRUE(receive(listener.accept()).userfault); });
  expect_refused(memory, scratch_.file("pages"), "the page server has hung up and gives no page");
  server.wait();
  EXPECT_EQ(memory.load<std::uint64_t>(GuestAddress{8 * kGuestPageSize}), 0U);  // nobody waits for it any more
}

TEST_F(PageServerThatListens, IsNotGivenMemoryThatAFileIsBehind) {
  const Listener listener{scratch_.file("pages")};
  OwnedFd file{::open(testing::make_file(scratch_.file("mem"), "").c_str(), O_RDWR | O_CLOEXEC)};
  ASSERT_EQ(::ftruncate(file.get(), kMiB), 0);
  const auto memory = GuestMemory::map({.size_mib = 1}, std::move(file));
  ASSERT_TRUE(memory);
  expect_refused(*memory, scratch_.file("pages"), "mem_backend: cannot watch 1 MiB of guest memory for faults");
}

TEST_F(PageServer, ThatIsNotThereIsNamed) {
  expect_refused(memory_of(1), scratch_.file("none"),
                 "backend_path " + scratch_.file("none") + ": no page server to connect to: No such file");
}

TEST_F(PageServer, ThatIsAFileIsRefused) {
  expect_refused(memory_of(1), testing::make_file(scratch_.file("file"), "x"), "no page server to connect to");
}

TEST_F(PageServer, ThatHasEndedIsRefused) {
  {
    const Listener listener{scratch_.file("pages")};
  }
  expect_refused(memory_of(1), scratch_.file("pages"), "no page server to connect to: Connection refused");
}

TEST_F(PageServer, WithTooLongAPathIsRefusedByItsLength) {
  const std::string path = '/' + std::string(107, 's');
  expect_refused(memory_of(1), path, "backend_path has 108 bytes, and the kernel takes at most 107: " + path);
}

}  // namespace
}  // namespace mayfly
