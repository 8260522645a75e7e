package evaluate

// Measured is what Pair measures of two label maps.
var Measured = measure
