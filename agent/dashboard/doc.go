// Package dashboard serves the web page on which users see and steer what their agent has.
//
// Loopback addresses are open to everything on the machine: to other users, and to every web page that the user visits.
// The page therefore lets in only a browser with a link that the agent has made for its user:
//
//   - A link's address holds a token, in the fragment, which browsers never send. It is good once and for a minute.
//   - The page exchanges it for a session, which takes two secrets in each request: a cookie, which no script can read,
//     and a key in a header, which no other page can read or send. Neither is enough. Cookies know no ports, so that a
//     browser sends them to whatever another user serves on this address; and a key alone could be read by a script
//     that got into the page.
//   - A request must name the listener's address as its Host, so that a name that was made to point here (DNS
//     rebinding) gets nothing, and must not come from another origin, not even from another port.
//   - What changes something is a POST of JSON.
//   - On Linux, connections of other users are closed at once.
//
// The page is static, loads nothing from elsewhere and puts what it shows into the document as text only.
package dashboard
