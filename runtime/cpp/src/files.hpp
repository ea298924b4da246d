// Read regular files: a pipe would block, a device would never end.
#pragma once

#include <cstdint>
#include <string>

namespace spoter::detail {

struct SystemError {
  int number;          // errno
  std::string reason;  // in the words of Python's OSError.strerror
};

class File {
 public:
  explicit File(const std::string &path);  // throws SystemError
  ~File();
  File(const File &) = delete;
  File &operator=(const File &) = delete;

  uint64_t size() const { return size_; }
  std::string read();    // all of it; throws SystemError
  std::string sha256();  // in pieces

 private:
  int descriptor_;
  uint64_t size_ = 0;
};

bool is_file(const std::string &path);
bool is_folder(const std::string &path);
bool is_there(const std::string &path);  // a broken link too
// Whether a path of an existing file leads into the folder, through links too; true where there is no such file.
bool leads_inside(const std::string &folder, const std::string &path);
std::string joined(const std::string &folder, const std::string &name);
std::string tidy(const std::string &path);  // as Python's Path writes it: no // and no / at the end

}  // namespace spoter::detail
