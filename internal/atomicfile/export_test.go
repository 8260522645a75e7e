package atomicfile

// SetAside is for tests on file systems that can exchange two folders.
var SetAside = setAside
