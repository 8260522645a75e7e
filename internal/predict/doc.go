// Package predict labels new cases with a trained model: it preprocesses them as in training, scores them tile by tile,
// averages tiles, flips and folds, and brings the labels back onto the grid of the input with its header geometry.
package predict
