// Read regular files: a pipe would block, a device would never end.
#pragma once

#include <cstdint>
#include <string>

namespace spoter::detail {

struct SystemError {
  int number;          // errno
  std::string reason;  // in the words of Python's OSError.strerror
};

// The most bytes of a file: it is not read, and not hashed, if it has more. As in Python.
inline constexpr uint64_t model_bytes = uint64_t(1) << 31;  // no ONNX file can have more
inline constexpr uint64_t other_bytes = uint64_t(1) << 26;

class File {
 public:
  File(const std::string &path, uint64_t most_bytes);  // throws SystemError, also where it has more
  ~File();
  File(const File &) = delete;
  File &operator=(const File &) = delete;

  // Both read no further than the size that was compared with the limit, though the file may grow; both throw
  // SystemError.
  std::string read();
  std::string sha256();  // in pieces

 private:
  size_t read_into(char *buffer, size_t bytes);  // 0 at the end

  int descriptor_;
  uint64_t left_ = 0;  // bytes to be read
};

bool is_file(const std::string &path);
bool is_folder(const std::string &path);
bool is_there(const std::string &path);  // a broken link too
// Whether a path of an existing file leads into the folder, through links too; true where there is no such file.
bool leads_inside(const std::string &folder, const std::string &path);
std::string joined(const std::string &folder, const std::string &name);
std::string tidy(const std::string &path);  // as Python's Path writes it: no // and no / at the end

}  // namespace spoter::detail
