#include "vmm/memory/huge_page_pool.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(HugePagePool, IsReadFromTheKernelsFiles) {
  const testing::ScratchDirectory scratch;
  const std::string directory = scratch.file("");
  EXPECT_FALSE(read_huge_page_pool(directory));
  testing::make_file(directory + "/nr_hugepages", "20\n");
  testing::make_file(directory + "/free_hugepages", "15\n");
  EXPECT_FALSE(read_huge_page_pool(directory)) << "one is missing";
  testing::make_file(directory + "/resv_hugepages", "5\n");
  const auto pool = read_huge_page_pool(directory);
  ASSERT_TRUE(pool);
  EXPECT_EQ(pool->total, 20U);
  EXPECT_EQ(pool->available(), 10U);
  testing::make_file(directory + "/free_hugepages", "many\n");
  EXPECT_FALSE(read_huge_page_pool(directory));
}

TEST(HugePagePool, MoreReservedThanFreeIsNothingToGive) {
  EXPECT_EQ((HugePagePool{.total = 4, .free = 1, .reserved = 2}.available()), 0U);
}

TEST(HugePagePool, AShortageSaysWhatIsNeededWhatIsThereAndHowToGetMore) {
  const auto told = [](const std::optional<HugePagePool>& pool) {
    return huge_page_shortage(128, pool).error().message;
  };
  EXPECT_EQ(told(HugePagePool{}),
            "huge_pages is 2M: 128 MiB of memory need 64 pages of 2 MiB, and the host's pool has 0 to give (0 in all, "
            "the others taken by or promised to other processes); get more by echo 64 > "
            "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages, or use huge_pages None or Transparent");
  const std::string some = told(HugePagePool{.total = 100, .free = 40, .reserved = 10});
  EXPECT_NE(some.find("has 30 to give (100 in all"), std::string::npos) << some;
  EXPECT_NE(some.find("echo 134 >"), std::string::npos) << some;
  const std::string enough = told(HugePagePool{.total = 100, .free = 64, .reserved = 0});
  EXPECT_NE(enough.find("has 64 to give, so another limit stands against it: hugetlb.2MB.rsvd.max"), std::string::npos)
      << enough;
  const std::string unknown = told(std::nullopt);
  EXPECT_NE(unknown.find("need 64 pages of 2 MiB"), std::string::npos) << unknown;
  EXPECT_NE(unknown.find("raise the number in /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages on the host"),
            std::string::npos)
      << unknown;
}

}  // namespace
}  // namespace mayfly
