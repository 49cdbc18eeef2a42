"""Mathematical answers: every form of a ground truth is equal to itself, and to what means the same."""

import logging

import pytest

from rollout.scoring.expressions import answers_of, are_equal, truth_of

ANSWERS = r"""
42
-7
0.5
.5
3.14
1,000
10,\!080
32,\!348
1{,}000
\$18.90
\$32,\!348
\$36
28\%
28%
12.5\%
\frac{3}{4}
\frac34
\dfrac{9}{7}
\tfrac{1}{2}
-\frac{35}{9}
\frac{9}{256}
1\frac{1}{2}
2\frac{4}{9}
3\frac{1}{5}
137 \frac{1}{2}
11\sqrt{2}
\sqrt{51}
3\sqrt{13}
\frac{3\sqrt{3}}{4}
\frac{\sqrt{3}}{3}
\frac{14\sqrt{3}}{3}
3 \pm 2 \sqrt{2}
5 \pm \sqrt{3}
\frac{1 \pm \sqrt{19}}{3}
\pm 19
6 - 5i
1+2i
-2 + 7i
\frac{3}{5} + \frac{4}{5}i
6 + 9i
i
p - q
x^3+3x-6
2k+2
-x^2 + 3x + 2
6r^2-4r-24
(x+5)(x-3)
(x - 2)(x + 2)
5(x+3)(x-3)
x^2 + 2x + 1
-\frac{2}{3}x + 5
y = 2x + 3
x=5
y = \frac{1}{2}x - 3
m = 7
k = -1
f(x) = x^2
x \ge 3
x < -2
-3 < x < 5
x \in [-2,7]
[0,3)
(-\infty, 0)
(2,12)
[-2,7]
(3,4]
(-\infty,-1)\cup(3,\infty)
\left( 3, \frac{\pi}{2} \right)
(0,9)\cup(9,36)
(-\infty, 3) \cup (3, \infty)
\left[ -\frac{1}{2}, \infty \right)
(6,31,-1)
\left( \frac{3}{5}, \frac{8}{3} \right]
\left(-\frac{3}{2}, 4\right)
(-11,16,-1)
\{1\pm\sqrt{5},-2\}
\{1,2,3\}
1, -2
-2, 1
3, 5, 7, 9
1, \frac{1}{2}, -3
\text{1 and 3}
1 \text{ and } 5
\frac{1}{2}, \frac{1}{3}
\begin{pmatrix} -18 \\ -49 \\ 96 \end{pmatrix}
\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}
\begin{pmatrix} 0 & 1 \\ 1 & 0 \end{pmatrix}
\begin{bmatrix} 2 & 3 \\ 4 & 5 \end{bmatrix}
\begin{pmatrix} -1/3 & 2/3 \\ 2/3 & 2/3 \end{pmatrix}
\begin{pmatrix} \cos \theta & -\sin \theta \\ \sin \theta & \cos \theta \end{pmatrix}
\text{Evelyn}
\text{Navin}
\text{even}
\text{odd}
\text{ellipse}
\text{hyperbola}
\text{circle}
\text{two}
\text{(C)}
\text{(A)}
\text{C}
(C)
\text{A,B,D}
\text{yes}
\text{No}
\text{Cassie}
\text{Monday}
\text{east}
\text{west}
\text{Shyam}
\text{June 20}
\text{Friday}
\text{neither}
\text{parallelogram}
\mathrm{Evelyn}
\text{Converges}
12 \text{ inches}
5 \text{ cm}
27\text{ cm}^2
6\text{ square units}
10 \mbox{ meters}
20\mbox{ cm}^3
15\mbox{ cm}^2
60 \text{ mph}
3 \text{ hours}
1.5 \text{ miles per hour}
5.5 \, \text{kg}
30^\circ
90^{\circ}
58^\circ
145^\circ
120 \text{ degrees}
75^\circ\text{F}
\frac{\pi}{3}
2\pi
-\frac{\pi}{6}
54\pi
18+2\pi
25\pi \text{ cm}^2
2516_8
4210_{5}
204_5
2516_{8}
52_8
11011_2
ABC_{16}
2 \cdot 3^5
2^{10}
10^6
1.5 \times 10^{-3}
2 \times 10^{5}
5 \cdot 10^4
2.5e-06
1e-05
e^2
e^{i\pi}
\ln 2
\log_2 5
\log_{10} 3
\sin 30^\circ
\cos^2 \theta
\tan^{-1} 2
\arcsin \frac{1}{2}
\emptyset
\varnothing
\infty
-\infty
\mathbb{R}
\text{undefined}
\text{none}
\text{infinitely many}
\text{no real solutions}
\text{DNE}
3:4
2:1:3
7:30
4:30 \text{ p.m.}
11:45\text{ a.m.}
0.\overline{3}
0.\overline{142857}
\overline{AB}
\frac{n(n+1)}{2}
\binom{5}{2}
{10 \choose 3}
5!
7\sqrt[3]{2}
\sqrt[3]{4}
\frac{a+b}{c}
a^2 + b^2 = c^2
x^2 + y^2 = 25
\frac{x^2}{9} + \frac{y^2}{4} = 1
(x-2)^2 + (y+3)^2 = 16
|x - 3|
\left|x\right|
\lfloor x \rfloor
\lceil 3.2 \rceil
AB = 5
\triangle ABC
\angle ABC = 60^\circ
(1,2),(3,4)
(0,0), (1,1)
(1,-2), (2, 3)
(5, \infty)
\frac{2}{x+1}
\frac{x+2}{7}
\frac{p}{q}
\frac{1}{x^2+1}
4x^4 - 3x^2 + 2
3x - 5y = 7
x + 2y - 3z = 5
6x - 2y + 3z - 7 = 0
\sqrt{x^2+1}
\frac{-1 + \sqrt{5}}{2}
\frac{3 + \sqrt{5}}{2}
-\sqrt{3}
2\sqrt{3} + 3
a + b\sqrt{c}
1 + \sqrt{2} + \sqrt{3}
\frac{1}{3}(x+1)
0
1
-1
-50
70
1,2,3
10\%
6.25\%
\$1,\!000
\$0.75
\$5
5\text{ dollars}
12\text{ cents}
85\cent
5\ \text{dollars}
16\,\text{cm}
\sec x
\cot x
\frac{1}{2} \text{ hour}
t^7
z^{12}
4,6,14,15
1-\frac{1}{e}
\text{Point } A
\text{A}
A
B
\textbf{(B)}
\textbf{(E) }12
\mathbf{i} + \mathbf{j}
\frac{270}{7}\text{ degrees}
70 \sqrt{2} \text{ ft}
\cot \alpha
-4 \le x \le 2
a > 0
x \neq 3
x\ne -1
\{(1,2),(2,1)\}
\{x : x > 3\}
\mathbb{Z}
\text{All real numbers}
(-2,1) \cup (4, \infty)
[-5,1] \cup [3,7)
\left\{\frac{1}{2}, 2\right\}
\{0\}
864 \mbox{ inches}^2
9.8\text{ m/s}^2
0.0625
\sqrt{53}
6+9i, 6-9i
x^{10}y^5
4x^2y^3
"""
"""One a line, of the kinds that MATH has: numbers, units, intervals, tuples, sets, matrices, names, equations, ..."""

FORMS = ["%s", "\\boxed{%s}", "It is $\\boxed{%s}$.", "The answer is $%s$.", "The answer is %s."]


def score(response: str, ground_truth: str) -> bool:
    return any(are_equal(truth_of(ground_truth), answer) for answer in answers_of(response))


@pytest.mark.parametrize("answer", ANSWERS.split("\n")[1:-1])
def test_every_answer_is_equal_to_itself_bare_and_boxed(answer: str) -> None:
    assert [form for form in FORMS if not score(form.replace("%s", answer), answer)] == []


@pytest.mark.parametrize("answer", ANSWERS.split("\n")[1:-1])
def test_no_answer_is_equal_to_another_number_or_to_none(answer: str) -> None:
    assert not score("\\boxed{987654}", answer)
    assert not score("I do not know", answer)
    assert not score("", answer)


SAME = [
    (r"\frac{\pi r^2 h}{3}", r"\boxed{\frac{1}{3}\pi r^2 h}"),
    (r"(-3,5)", r"\boxed{-3 < x < 5}"),
    (r"28%", r"The answer is 28%."),
    (r"28\%", r"The answer is 28 percent."),
    (r"50%", r"\boxed{50\%}"),
    (r"28\%", r"\boxed{28}"),
    (r"28", r"\boxed{28\%}"),
    (r"0.28", r"\boxed{28\%}"),
    (r"\$18.90", r"It is $\boxed{\$18.90}$."),
    (r"\$18.90", r"\boxed{18.9}"),
    (r"\$18.90", r"The answer is $18.90."),
    (r"18.90", r"It costs -$3 first, then $18.90."),
    (r"-5", r"The change is -$5."),
    (r"\$5", r"\boxed{5 \text{ dollars}}"),
    (r"32348", r"\boxed{32,\!348}"),
    (r"32,\!348", r"\boxed{32{,}348}"),
    (r"12000", r"\boxed{12\,000}"),
    (r"12000", r"\boxed{12 000}"),
    (r"1234567", r"\boxed{1\ 234\ 567}"),
    (r"3.14", r"\boxed{3{,}14}"),
    (r"1/2", r"\boxed{.5}"),
    (r"\frac{1}{2}", r"\boxed{0.5}"),
    (r"1\frac{1}{2}", r"\boxed{\frac{3}{2}}"),
    (r"1\frac{1}{2}", r"1 1/2"),
    (r"1\frac{1}{2}", r"1½"),
    (r"x=5", r"\boxed{5}"),
    (r"5", r"\boxed{x = 5}"),
    (r"0.00001", r"\boxed{1e-05}"),
    (r"0.00001", r"\boxed{10^{-5}}"),
    (r"2.5e-06", r"\boxed{2.5\times 10^{-6}}"),
    (r"0.0000025", r"It is 2.5 × 10^{-6}."),
    (r"1.5 \times 10^{3}", r"\boxed{1500}"),
    (r"90^\circ", r"\boxed{90}"),
    (r"90^\circ", r"\boxed{90°}"),
    (r"90^\circ", r"\boxed{90 \text{ degrees}}"),
    (r"27\text{ cm}^2", r"\boxed{27}"),
    (r"2516_8", r"\boxed{2516_{8}}"),
    (r"2516_8", r"\boxed{2516}"),
    (r"15_8", r"\boxed{13_{10}}"),
    (r"\text{(C)}", r"\boxed{C}"),
    (r"\text{(C)}", r"The answer is (C)."),
    (r"C", r"\boxed{\text{(C)}}"),
    (r"\text{Evelyn}", r"Evelyn"),
    (r"\text{Evelyn}", r"The answer is Evelyn."),
    (r"\text{Evelyn}", r"**Answer:** evelyn"),
    (r"\text{infinitely many}", r"infinitely many"),
    (r"\emptyset", r"\boxed{\varnothing}"),
    (r"\emptyset", r"∅"),
    (r"(-\infty, 3)", r"(−∞, 3)"),
    (r"2\pi", r"2π"),
    (r"x \ge 3", r"x ≥ 3"),
    (r"11\sqrt{2}", r"\boxed{\sqrt{242}}"),
    (r"1, -2", r"\boxed{-2, 1}"),
    (r"1 \text{ and } 5", r"\boxed{5, 1}"),
    (r"3 \pm 2 \sqrt{2}", r"\boxed{3 + 2\sqrt{2}, 3 - 2\sqrt{2}}"),
    (r"(x+1)^2", r"\boxed{x^2 + 2x + 1}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{bmatrix} 1 \\ 2 \end{bmatrix}}"),
    (r"0.\overline{3}", r"\boxed{\frac{1}{3}}"),
    (r"5", r"\boxed{５}"),
    (r"-5", r"\boxed{−5}"),
    (r"#### 72", r"The answer is 72."),
    (r"so 3 + 4 = 7, #### 7", r"\boxed{7}"),
    (r"The answer is \boxed{4}", r"\boxed{4}"),
    (r"$\frac{1}{2}$", r"\boxed{0.5}"),
    (r"p - q", r"p-q"),
    (r"6 - 5i", r"\boxed{-5i + 6}"),
    (r"42", r"First \boxed{3}, no: at last we find that it is something else, \boxed{42}."),
]


@pytest.mark.parametrize(("ground_truth", "response"), SAME)
def test_what_means_the_same_is_equal(ground_truth: str, response: str) -> None:
    assert score(response, ground_truth)


OTHER = [
    (r"28\%", r"\boxed{27\%}"),
    (r"28%", r"The answer is 82%."),
    (r"\$18.90", r"\boxed{\$18.91}"),
    (r"-5", r"The change is $5."),
    (r"32,\!348", r"\boxed{32}"),
    (r"12000", r"\boxed{12}"),
    (r"1\frac{1}{2}", r"\boxed{\frac{1}{2}}"),
    (r"x=5", r"\boxed{6}"),
    (r"0.00001", r"\boxed{0.00002}"),
    (r"2.5e-06", r"\boxed{2.6\times 10^{-6}}"),
    (r"2516_8", r"\boxed{2516_9}"),
    (r"2516_8", r"\boxed{2517}"),
    (r"\text{(C)}", r"\boxed{D}"),
    (r"\text{Evelyn}", r"\boxed{\text{Carla}}"),
    (r"(2,5)", r"\boxed{[2,5]}"),
    (r"(1,2)", r"\boxed{(2,1)}"),
    (r"1, -2", r"\boxed{1, 2}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 2 \\ 1 \end{pmatrix}}"),
    (r"\emptyset", r"\boxed{0}"),
    (r"6 - 5i", r"\boxed{6 + 5i}"),
    (r"11\sqrt{2}", r"\boxed{11}"),
    (r"x^2 + 1", r"The answer is x^2 + 2."),
    (r"p - q", r"q - p"),
    (r"1", r"\boxed{x^2 + 1}"),
    (r"4", r"no idea"),
    (r"42", r"\boxed{42}, or at least so I thought for a while; checking it all again I get \boxed{3}"),
]


@pytest.mark.parametrize(("ground_truth", "response"), OTHER)
def test_what_means_something_else_is_not_equal(ground_truth: str, response: str) -> None:
    assert not score(response, ground_truth)


@pytest.mark.parametrize(
    "text", ["9" * 5000, "1 2/" + "9" * 5000, "9" * 5000 + "e5", r"0.\overline{" + "9" * 5000 + "}"]
)
def test_numbers_without_end_are_no_error(text: str) -> None:
    assert not score(text, "4")
    assert not score("4", text)


def test_nothing_of_the_library_is_on_screen(capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("math_verify").setLevel(logging.NOTSET)
    for text in (
        r"\boxed{\frac{1}{0}}",
        r"\boxed{\undefined{^^}}",
        r"\boxed{" + "(" * 300,
        r"$x = \int$",
        "1/0",
        "x^^2",
    ):
        score(text, r"\frac{1}{2}")
        truth_of(text)
    assert capfd.readouterr() == ("", "")
