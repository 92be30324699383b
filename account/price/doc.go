// Package price says what a stack costs: a month in which nobody uses it, and each hour of a bastion. It computes exactly, by decimal
// prices, and rounds a sum once, where it is shown.
//
// The prices are data: prices.json has the list prices of a few regions in US dollars, with their date. [Parse] reads an operator's own
// file of the same form. A region without prices gets those of us-east-1, and the estimate says so.
package price
